// Quantized linear layers with AVX-512 and VNNI: `vpdpbusd` adds four products of unsigned weights
// and signed activations to an int32, sixteen matrix rows at a time, activations broadcast by the
// load itself.
#include <immintrin.h>

#include "../shared/linear_int8.h"

#include "tables.h"

namespace tektra::avx512vnni {
namespace {

struct Vectors {
    static constexpr int kLanes = 16;
    static constexpr bool kSignedProducts = false;
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

    // int32 sum of 16 products
    static inline Int half(const Int* q, const int8_t* x) {
        Int total = _mm512_setzero_si512();
        for (int i = 0; i < 4; ++i) {
            int32_t four;
            std::memcpy(&four, x + 4 * i, sizeof four);
            total = _mm512_dpbusd_epi32(total, q[i], _mm512_set1_epi32(four));
        }
        return total;
    }

    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = half(q, a.q), high = half(q + 4, a.q + 16);
        if constexpr (F::kSumFitsInt16) {  // both sums side by side, times both factors
            int32_t factors;
            std::memcpy(&factors, a.factor, sizeof factors);
            const Int pairs = _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
            return to_float(_mm512_madd_epi16(pairs, _mm512_set1_epi32(factors)));
        }
        return fmadd(to_float(high), splat(a.scale[1]), mul(to_float(low), splat(a.scale[0])));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = to_float(half(q, a.q + 16 * h)), scale = splat(a.scale[h]);
        return F::kPart == Part::kCentre ? fmadd(sum, scale, splat(a.centre[h])) : mul(sum, scale);
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

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx512vnni
