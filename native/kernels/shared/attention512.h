// Vectors of sixteen floats, with AVX-512 F and BW, as attention_float.h and attention_int8.h want
// them, but for dot(a, b, c): that is where the sets differ. Internal linkage: each set compiles
// its own copy.
#pragma once

#include "attention_float.h"
#include "attention_int8.h"
#include "math512.h"

namespace tektra {
namespace {

#if defined(__GNUC__)
using Float16 = float __attribute__((vector_size(64)));
#endif

struct AttentionVectors512 {
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
    static inline Float soft_cap(Float v, float cap) {
        return _mm512_mul_ps(splat(cap), tanh(_mm512_div_ps(v, splat(cap))));
    }
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
    static inline Sum plus(Sum a, Int b) { return a + (Sum)b; }
    static inline Float to_float(Sum v) { return (__m512) __builtin_convertvector(v, Float16); }
#else
    using Sum = __m512i;
    static inline Sum none() { return _mm512_setzero_si512(); }
    static inline Sum plus(Sum a, Int b) { return _mm512_add_epi32(a, b); }
    static inline Float to_float(Sum v) { return _mm512_cvtepi32_ps(v); }
#endif
    static inline Int pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
    static inline Int pairs(const int8_t* p) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline void store_pairs(int16_t* p, Int v) { _mm512_storeu_si512(p, v); }
    static inline Int splat_pair(const float* p) { return _mm512_castps_si512(_mm512_set1_ps(*p)); }
    static inline void store_codes(int16_t* p, Float v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
    }
    static inline void fetch(const uint8_t* p) {
        _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
    }
};

}  // namespace
}  // namespace tektra
