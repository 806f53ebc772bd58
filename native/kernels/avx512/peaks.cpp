// Peak loops with AVX-512: `maddubs` and the addition that follows it (64 multiply-adds), FMA
// (16).
#include "../shared/peaks.h"

#include <immintrin.h>

#include "tables.h"

namespace tektra::avx512 {
namespace {

struct Int8 {
    // with more, the two instructions get into each other's way on the execution ports
    static constexpr int kSums = 10;
    using Vector = __m512i;
    static Vector start(int i) { return _mm512_set1_epi16(static_cast<int16_t>(257 * (i + 3))); }
    static Vector step(Vector sum, Vector factor) {
        return _mm512_add_epi16(sum, _mm512_maddubs_epi16(sum, factor));
    }
    static uint64_t use(Vector sum) {
        return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(sum)));
    }
};

struct Floats {
    static constexpr int kSums = 16;
    using Vector = __m512;
    static Vector start(int i) {
        return _mm512_set1_ps(i < kSums ? 1.0f + static_cast<float>(i) : 0.5f);
    }
    static Vector step(Vector sum, Vector factor) { return _mm512_fmadd_ps(sum, factor, factor); }
    static uint64_t use(Vector sum) {
        return static_cast<uint64_t>(_mm_cvtss_f32(_mm512_castps512_ps128(sum)));
    }
};

}  // namespace

void fill_peaks(KernelTable& table) {
    // memory is not read faster than by AVX2
    table.peaks.int8_in_round = 64 * Int8::kSums;
    table.peaks.float_in_round = 16 * Floats::kSums;
    table.peaks.int8_rounds = peak_rounds<Int8>;
    table.peaks.float_rounds = peak_rounds<Floats>;
}

}  // namespace tektra::avx512
