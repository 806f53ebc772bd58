// Vectors of sixteen floats, with AVX-512 F and BW, as linear_int8.h and dots_x86.h want them.
// Internal linkage: each set compiles its own copy.
#pragma once

#include "dots_x86.h"

namespace tektra {
namespace {

struct Vectors512 {
    static constexpr int kLanes = 16;
    using Int = __m512i;
    using Float = __m512;

    static inline Int load(const void* p) { return _mm512_loadu_si512(p); }
    static inline Int splat8(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
    static inline Int and_(Int a, Int b) { return _mm512_and_si512(a, b); }
    static inline Int or_and(Int a, Int b, Int c) {
        return _mm512_ternarylogic_epi32(a, b, c, 0xf8);  // a | b & c
    }
    static inline Int xor_(Int a, Int b) { return _mm512_xor_si512(a, b); }
    template <int n>
    static inline Int right(Int v) {
        return _mm512_srli_epi16(v, n);
    }
    static inline Int splat32(int32_t v) { return _mm512_set1_epi32(v); }
    static inline Int no_sum() { return _mm512_setzero_si512(); }
    static inline Int add16(Int a, Int b) { return _mm512_add_epi16(a, b); }
    static inline Int add32(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static inline Int madd16(Int a, Int b) { return _mm512_madd_epi16(a, b); }
    static inline Int unsigned_pairs(Int q, Int x) { return _mm512_maddubs_epi16(q, x); }
    static inline Int signed_pairs(Int q, Int x) {  // there is no `vpsignb` of this size
        const Int turned = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(q), no_sum(), x);
        return _mm512_maddubs_epi16(_mm512_abs_epi8(q), turned);
    }
    static inline Int interleave(Int low, Int high) {
        return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
    }
    static inline Int table(const uint8_t* p) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static inline Int look_up(Int table, Int v) { return _mm512_shuffle_epi8(table, v); }

    static inline Float e8m0_halves(const uint8_t* p) {
        const __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const Int exponent = _mm512_cvtepu8_epi32(_mm_subs_epu8(e, _mm_set1_epi8(1)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    }
    static inline Float halves(const half_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline Float widen(const uint8_t* p) {
        return _mm512_cvtepi32_ps(
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static inline Float widen(const int8_t* p) {
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }

    static inline Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
    static inline Float splat(float f) { return _mm512_set1_ps(f); }
    static inline Float zero() { return _mm512_setzero_ps(); }
    static inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static inline Float load_floats(const float* p) { return _mm512_loadu_ps(p); }
    static inline void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
};

}  // namespace
}  // namespace tektra
