// Quantized linear layers with AVX2: `maddubs` gives int16 sums of pairs, as many of which are
// added as the range of the format allows before they are widened.
#include "../shared/linear_int8.h"

#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

struct Vectors {
    static constexpr int kLanes = 8;
    static constexpr int kTile = 4;
    static constexpr bool kSignedProducts = true;
    using Int = __m256i;
    using Float = __m256;

    static inline Int load(const void* p) {
        return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    }
    static inline Int splat8(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
    static inline Int and_(Int a, Int b) { return _mm256_and_si256(a, b); }
    static inline Int or_(Int a, Int b) { return _mm256_or_si256(a, b); }
    static inline Int xor_(Int a, Int b) { return _mm256_xor_si256(a, b); }
    template <int n>
    static inline Int left(Int v) {
        return _mm256_slli_epi16(v, n);
    }
    template <int n>
    static inline Int right(Int v) {
        return _mm256_srli_epi16(v, n);
    }
    static inline Float halves(const half_t* p) { return load_half(p); }
    static inline Float widen(const uint8_t* p) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static inline Float widen(const int8_t* p) {
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }

    template <int kChain, bool kSigned>
    static inline Int dot(const Int* q, const int8_t* x) {
        constexpr int kCount = 4;
        const Int ones = _mm256_set1_epi16(1);
        Int total = _mm256_setzero_si256();
        for (int j = 0; j < kCount; j += kChain) {
            Int sum = _mm256_setzero_si256();
            for (int i = j; i < j + kChain && i < kCount; ++i) {
                int32_t four;
                std::memcpy(&four, x + 4 * i, sizeof four);
                const Int a = _mm256_set1_epi32(four);
                Int product;
                if constexpr (kSigned) {  // |q| * (sign of q) a: the first factor is unsigned
                    product = _mm256_maddubs_epi16(_mm256_sign_epi8(q[i], q[i]),
                                                   _mm256_sign_epi8(a, q[i]));
                } else {
                    product = _mm256_maddubs_epi16(q[i], a);
                }
                sum = i == j ? product : _mm256_add_epi16(sum, product);
            }
            const Int wide = _mm256_madd_epi16(sum, ones);
            total = j == 0 ? wide : _mm256_add_epi32(total, wide);
        }
        return total;
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

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx2
