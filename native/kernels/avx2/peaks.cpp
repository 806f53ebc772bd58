// Peak loops with AVX2: `maddubs` and the addition that follows it (32 multiply-adds), FMA (8).
#include "../shared/peaks.h"

#include <immintrin.h>

#include "tables.h"

namespace tektra::avx2 {
namespace {

struct Int8 {
    // with more, the two instructions get into each other's way on the execution ports
    static constexpr int kSums = 10;
    using Vector = __m256i;
    static Vector start(int i) { return _mm256_set1_epi16(static_cast<int16_t>(257 * (i + 3))); }
    static Vector step(Vector sum, Vector factor) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(sum, factor));
    }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0)); }
};

struct Floats {
    static constexpr int kSums = 12;
    using Vector = __m256;
    static Vector start(int i) {
        return _mm256_set1_ps(i < kSums ? 1.0f + static_cast<float>(i) : 0.5f);
    }
    static Vector step(Vector sum, Vector factor) { return _mm256_fmadd_ps(sum, factor, factor); }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(_mm256_cvtss_f32(sum)); }
};

// Two streams, and no prefetching but the core's own, are the fastest that was found.
uint64_t read(const uint8_t* data, size_t bytes) {
    const size_t half = bytes / 128 * 64;
    __m256i sums[4] = {};
    auto add = [&](const uint8_t* from, int i) {
        for (int j = 0; j < 2; ++j) {
            const auto* p = reinterpret_cast<const __m256i*>(from) + j;
            sums[i + j] = _mm256_add_epi64(sums[i + j], _mm256_loadu_si256(p));
        }
    };
    for (size_t at = 0; at < half; at += 64) {
        add(data + at, 0);
        add(data + half + at, 2);
    }
    if (2 * half < bytes) add(data + 2 * half, 0);
    const __m256i sum =
        _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
    const __m128i two =
        _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return static_cast<uint64_t>(
        _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))));
}

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks = {32 * Int8::kSums, 8 * Floats::kSums, peak_rounds<Int8>, peak_rounds<Floats>,
                   read};
}

}  // namespace tektra::avx2
