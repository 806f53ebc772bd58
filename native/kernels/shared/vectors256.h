// Vectors of eight floats on x86-64, as linear_int8.h and dots_x86.h want them. Internal linkage:
// each set compiles its own copy.
#pragma once

#include "dots_x86.h"

namespace tektra {
namespace {

struct Vectors256 {
    static constexpr int kLanes = 8;
    using Int = __m256i;
    using Float = __m256;

    static inline Int load(const void* p) {
        return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    }
    static inline Int splat8(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
    static inline Int and_(Int a, Int b) { return _mm256_and_si256(a, b); }
    static inline Int or_and(Int a, Int b, Int c) {
        return _mm256_or_si256(a, _mm256_and_si256(b, c));
    }
    static inline Int xor_(Int a, Int b) { return _mm256_xor_si256(a, b); }
    template <int n>
    static inline Int right(Int v) {
        return _mm256_srli_epi16(v, n);
    }
    static inline Int splat32(int32_t v) { return _mm256_set1_epi32(v); }
    static inline Int no_sum() { return _mm256_setzero_si256(); }
    static inline Int add16(Int a, Int b) { return _mm256_add_epi16(a, b); }
    static inline Int add32(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static inline Int madd16(Int a, Int b) { return _mm256_madd_epi16(a, b); }
    static inline Int unsigned_pairs(Int q, Int x) { return _mm256_maddubs_epi16(q, x); }
    static inline Int signed_pairs(Int q, Int x) {
        return _mm256_maddubs_epi16(_mm256_sign_epi8(q, q), _mm256_sign_epi8(x, q));
    }
    static inline Int interleave(Int low, Int high) {
        return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
    }
    static inline Int table(const uint8_t* p) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static inline Int look_up(Int table, Int v) { return _mm256_shuffle_epi8(table, v); }

    static inline Float e8m0_halves(const uint8_t* p) {
        const __m128i e = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        const Int exponent = _mm256_cvtepu8_epi32(_mm_subs_epu8(e, _mm_set1_epi8(1)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    }
    static inline Float halves(const half_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static inline Float widen(const uint8_t* p) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static inline Float widen(const int8_t* p) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }

    static inline Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
    static inline Float splat(float f) { return _mm256_set1_ps(f); }
    static inline Float zero() { return _mm256_setzero_ps(); }
    static inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static inline Float load_floats(const float* p) { return _mm256_loadu_ps(p); }
    static inline void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
};

}  // namespace
}  // namespace tektra
