// Rows of floats to int8, with a factor for each 16 elements, which are a vector; see
// ActivationBlock.
#include <immintrin.h>

#include <cstring>
#include <limits>

#include "../shared/quantized_row.h"
#include "tables.h"

namespace tektra::avx512 {
namespace {

constexpr size_t kHalves = 16;  // that are worked on side by side
constexpr size_t kBlocks = kHalves / 2;

// Largest magnitudes as bits, which order like the floats, and NaN above all.
inline __m512i magnitudes(const float* x) {
    return _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7fffffff));
}

// Element i: the largest of v[i].
inline __m512i largest_each(const __m512i* v) {
    __m512i pairs[8];
    for (int i = 0; i < 8; ++i) {
        pairs[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                    _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    __m512i fours[4];  // [v0 v1 v2 v3] of each quarter, and so on
    for (int i = 0; i < 4; ++i) {
        fours[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    auto merge = [](__m512i a, __m512i b) {  // even quarters with odd ones, of a, then of b
        return _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    };
    return merge(merge(fours[0], fours[1]), merge(fours[2], fours[3]));
}

// Up to kBlocks blocks.
inline void quantize_blocks(const float* x, size_t num_blocks, float top, uint8_t* out) {
    __m512i v[kHalves] = {};
    for (size_t h = 0; h < 2 * num_blocks; ++h) v[h] = magnitudes(x + 16 * h);
    const __m512 peaks = _mm512_castsi512_ps(largest_each(v));
    const __m512 shares = _mm512_mul_ps(peaks, _mm512_set1_ps(kMaxFactor / top));
    const __m512 factors =
        _mm512_min_ps(_mm512_roundscale_ps(shares, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC),
                      _mm512_set1_ps(kMaxFactor));
    const __mmask16 any = _mm512_cmp_ps_mask(factors, _mm512_setzero_ps(), _CMP_GT_OQ);
    alignas(64) float factor[kHalves], inverse[kHalves], sum[kHalves];
    alignas(64) int32_t total[kHalves] = {};
    _mm512_store_ps(factor, factors);
    _mm512_store_ps(inverse,
                    _mm512_maskz_div_ps(any, _mm512_set1_ps(127.0f * kMaxFactor / top), factors));
    for (size_t h = 0; h < 2 * num_blocks; ++h) {
        const __m512 scaled =
            _mm512_mul_ps(_mm512_loadu_ps(x + 16 * h), _mm512_set1_ps(inverse[h]));
        const __m128i q = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
        uint8_t* to = out + h / 2 * sizeof(ActivationBlock) + h % 2 * 16;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), q);
        // the sum of sixteen unsigned bytes, each 128 too large
        const __m128i eights =
            _mm_sad_epu8(_mm_xor_si128(q, _mm_set1_epi8(-128)), _mm_setzero_si128());
        total[h] =
            _mm_cvtsi128_si32(_mm_add_epi64(eights, _mm_unpackhi_epi64(eights, eights))) - 16 * 128;
    }
    _mm512_store_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(total)), factors));
    for (size_t b = 0; b < num_blocks; ++b) {
        auto& a = *reinterpret_cast<ActivationBlock*>(out + b * sizeof(ActivationBlock));
        finish_block(factor + 2 * b, sum + 2 * b, a);
    }
}

void quantize(const float* x, size_t n, uint8_t* out) {
    const size_t num_blocks = n / kActivationBlock;
    __m512i largest = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 16) largest = _mm512_max_epi32(largest, magnitudes(x + i));
    const auto bits = static_cast<uint32_t>(_mm512_reduce_max_epi32(largest));
    const float top = begin_row(bits, num_blocks, out);
    if (top == 0.0f) return;
    size_t b = 0;
    for (; b + kBlocks <= num_blocks; b += kBlocks) {
        quantize_blocks(x + b * kActivationBlock, kBlocks, top, out + b * sizeof(ActivationBlock));
    }
    if (b < num_blocks) {
        quantize_blocks(x + b * kActivationBlock, num_blocks - b, top,
                        out + b * sizeof(ActivationBlock));
    }
}

}  // namespace

void fill_quantize(KernelTable& table) {
    table.rows.quantize = quantize;
}

}  // namespace tektra::avx512
