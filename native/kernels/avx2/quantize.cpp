// Rows of floats to int8, with a factor for each 16 elements; see ActivationBlock.
#include <cstring>
#include <limits>

#include "../shared/quantized_row.h"
#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

constexpr size_t kHalves = 8;  // that are worked on side by side
constexpr size_t kBlocks = kHalves / 2;

// Largest magnitudes as bits, which order like the floats, and NaN above all.
inline __m256i magnitudes(const float* x) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
}

inline uint32_t largest_lane(__m256i v) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1))));
}

// Element i: the largest of v[i].
inline __m256i largest_each(const __m256i* v) {
    __m256i pairs[4];
    for (int i = 0; i < 4; ++i) {
        pairs[i] = _mm256_max_epi32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                    _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    __m256i fours[2];  // [v0 v1 v2 v3 | the same of the upper halves], and of v4 to v7
    for (int i = 0; i < 2; ++i) {
        fours[i] = _mm256_max_epi32(_mm256_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm256_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    return _mm256_max_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                            _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

// Up to kBlocks blocks whose largest magnitudes, half by half, are `peaks`.
inline void quantize_blocks(const float* x, size_t num_blocks, __m256 peaks, float top,
                            uint8_t* out) {
    const __m256 factors =
        _mm256_min_ps(_mm256_ceil_ps(_mm256_mul_ps(peaks, _mm256_set1_ps(kMaxFactor / top))),
                      _mm256_set1_ps(kMaxFactor));
    const __m256 zero = _mm256_setzero_ps();
    const __m256 inverses =
        _mm256_and_ps(_mm256_cmp_ps(factors, zero, _CMP_GT_OQ),
                      _mm256_div_ps(_mm256_set1_ps(127.0f * kMaxFactor / top), factors));
    alignas(32) float factor[kHalves], inverse[kHalves];
    _mm256_store_ps(factor, factors);
    _mm256_store_ps(inverse, inverses);
    // packs works within halves of a register: this puts the four results back in order
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i sums[kBlocks] = {};  // four of each half
    for (size_t b = 0; b < num_blocks; ++b, x += kActivationBlock) {
        __m256i v[4];
        for (int i = 0; i < 4; ++i) {
            const __m256 scale = _mm256_broadcast_ss(inverse + 2 * b + i / 2);
            v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), scale));
        }
        const __m256i q = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3])),
            order);
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + b * sizeof(ActivationBlock)), q);
        sums[b] = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
    }
    // sums of the first halves of all blocks, then of the second ones
    const __m256i added =
        _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    // the same order as the factors
    const __m256i halves = _mm256_permutevar8x32_epi32(added, order);
    alignas(32) float sum[kHalves];
    _mm256_store_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(halves), factors));
    for (size_t b = 0; b < num_blocks; ++b) {
        auto& a = *reinterpret_cast<ActivationBlock*>(out + b * sizeof(ActivationBlock));
        finish_block(factor + 2 * b, sum + 2 * b, a);
    }
}

void quantize(const float* x, size_t n, uint8_t* out) {
    const size_t num_blocks = n / kActivationBlock;
    __m256i largest = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8) largest = _mm256_max_epi32(largest, magnitudes(x + i));
    const uint32_t bits = largest_lane(largest);
    const float top = begin_row(bits, num_blocks, out);
    if (top == 0.0f) return;
    for (size_t b = 0; b < num_blocks; b += kBlocks) {
        const size_t count = num_blocks - b < kBlocks ? num_blocks - b : kBlocks;
        const float* from = x + b * kActivationBlock;
        __m256i v[kHalves] = {};
        for (size_t h = 0; h < 2 * count; ++h) {
            v[h] = _mm256_max_epi32(magnitudes(from + 16 * h), magnitudes(from + 16 * h + 8));
        }
        quantize_blocks(from, count, _mm256_castsi256_ps(largest_each(v)), top,
                        out + b * sizeof(ActivationBlock));
    }
}

}  // namespace

void fill_quantize(KernelTable& table) {
    table.rows.quantize = quantize;
}

}  // namespace tektra::avx2
