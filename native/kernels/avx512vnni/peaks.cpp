// The peak loop of AVX-512 with VNNI: `vpdpbusd` on 512 bits, 64 multiply-adds.
#include "../shared/peaks.h"

#include <immintrin.h>

#include "tables.h"

namespace tektra::avx512vnni {
namespace {

struct Int8 {
    static constexpr int kSums = 16;
    using Vector = __m512i;
    static Vector start(int i) { return _mm512_set1_epi8(static_cast<char>(i + 3)); }
    static Vector step(Vector sum, Vector factor) {
        return _mm512_dpbusd_epi32(sum, factor, factor);
    }
    static uint64_t use(Vector sum) {
        return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(sum)));
    }
};

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks.int8_in_round = 64 * Int8::kSums;
    table.peaks.int8_rounds = peak_rounds<Int8>;
}

}  // namespace tektra::avx512vnni
