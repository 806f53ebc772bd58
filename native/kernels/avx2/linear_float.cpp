// Linear layers with float weights, with AVX2 and FMA.
#include "../shared/linear_float.h"

#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

struct FloatVectors {
    static constexpr size_t kLanes = 8;
    static constexpr int kTile = 6;
    using Float = __m256;

    static inline Float load(const float* p) { return _mm256_loadu_ps(p); }
    static inline Float load_half(const half_t* p) { return avx2::load_half(p); }
    static inline Float load_bfloat(const uint16_t* p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static inline Float splat(float f) { return _mm256_set1_ps(f); }
    static inline Float zero() { return _mm256_setzero_ps(); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static inline void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
    static inline void fetch(const void* p) {
        _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
    }
};

}  // namespace

void fill_linear_float(KernelTable& table) {
    fill_float<FloatVectors>(table);
}

}  // namespace tektra::avx2
