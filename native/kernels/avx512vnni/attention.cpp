// Attention with vectors of sixteen floats.
#include <immintrin.h>

#include "../shared/attention_float.h"
#include "../shared/attention_int8.h"
#include "tables.h"

namespace tektra::avx512vnni {
namespace {

// exp(x) to about 1 ulp: x = n ln 2 + r, a polynomial in r, scaled by 2^n; 0 below -87.3.
inline __m512 exp(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.3f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860682030941723e-6f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040.0f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

// cap * tanh(x / cap); tanh as 1 - 2 / (exp(2 x) + 1), and as a series where that cancels
inline __m512 soft_cap(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 v = _mm512_div_ps(x, _mm512_set1_ps(cap));
    const __m512 twice = exp(_mm512_add_ps(v, v));
    const __m512 large =
        _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(twice, one)));
    const __m512 square = _mm512_mul_ps(v, v);
    __m512 p = _mm512_set1_ps(-17.0f / 315.0f);
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(2.0f / 15.0f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-1.0f / 3.0f));
    const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, square), v, v);
    const __mmask16 is_small =
        _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(0.15f), _CMP_LT_OQ);
    return _mm512_mul_ps(_mm512_set1_ps(cap), _mm512_mask_blend_ps(is_small, large, small));
}

#if defined(__GNUC__)
using Float16 = float __attribute__((vector_size(64)));
#endif

struct Vectors {
    static constexpr size_t kLanes = 16;
    static constexpr int kTile = 6;
    static constexpr int kWide = 4;
    using Float = __m512;

    static inline Float load(const float* p) { return _mm512_loadu_ps(p); }
    static inline Float load(const half_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline float single(const float* p) { return *p; }
    static inline float single(const half_t* p) { return _cvtsh_ss(*p); }
    static inline Float splat(float f) { return _mm512_set1_ps(f); }
    static inline Float zero() { return _mm512_setzero_ps(); }
    static inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static inline Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static inline Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static inline void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
    static inline Float power(Float v) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23));
    }
    static inline Float soft_cap(Float v, float cap) { return avx512vnni::soft_cap(v, cap); }
    static inline Float only(Float v, int at, int first, int last, Float other) {
        const __m512i lanes = _mm512_add_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32(at));
        const __mmask16 seen = _mm512_cmpge_epi32_mask(lanes, _mm512_set1_epi32(first)) &
                               _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(last));
        return _mm512_mask_blend_ps(seen, other, v);
    }
    static inline float sum_lanes(Float v) { return _mm512_reduce_add_ps(v); }
    static inline float max_lanes(Float v) { return _mm512_reduce_max_ps(v); }

    using Int = __m512i;
#if defined(__GNUC__)
    using Sum = int32_t __attribute__((vector_size(64)));
    static inline Sum none() { return Sum{}; }
    static inline Float to_float(Sum v) { return (__m512) __builtin_convertvector(v, Float16); }
#else
    using Sum = __m512i;
    static inline Sum none() { return _mm512_setzero_si512(); }
    static inline Float to_float(Sum v) { return _mm512_cvtepi32_ps(v); }
#endif
    static inline Int pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
    static inline Int pairs(const int8_t* p) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline void store_pairs(int16_t* p, Int v) { _mm512_storeu_si512(p, v); }
    static inline Int splat_pair(const float* p) { return _mm512_castps_si512(_mm512_set1_ps(*p)); }
    static inline Sum dot(Int a, Int b, Sum c) {
        return (Sum)_mm512_dpwssd_epi32((__m512i)c, a, b);
    }
    static inline void store_codes(int16_t* p, Float v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
    }
    static inline void fetch(const uint8_t* p) {
        _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
    }
};

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kF16)] = FloatAttention<Vectors>::run;
    table.attend[static_cast<size_t>(KvType::kInt8)] = Int8Attention<Vectors>::run;
}

}  // namespace tektra::avx512vnni
