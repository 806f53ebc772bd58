// The peak loop of AVX-VNNI: `vpdpbusd` on 256 bits, 32 multiply-adds.
#include "../shared/peaks.h"

#include <immintrin.h>

#include "tables.h"

namespace tektra::avxvnni {
namespace {

struct Int8 {
    static constexpr int kSums = 12;
    using Vector = __m256i;
    static Vector start(int i) { return _mm256_set1_epi8(static_cast<char>(i + 3)); }
    static Vector step(Vector sum, Vector factor) {
        return _mm256_dpbusd_avx_epi32(sum, factor, factor);
    }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0)); }
};

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks.int8_in_round = 32 * Int8::kSums;
    table.peaks.int8_rounds = peak_rounds<Int8>;
}

}  // namespace tektra::avxvnni
