// Linear layers with float weights, with AVX-512.
#include "../shared/linear_float.h"

#include <immintrin.h>

#include "tables.h"

namespace tektra::avx512 {
namespace {

struct FloatVectors {
    static constexpr size_t kLanes = 16;
    static constexpr int kTile = 8;
    using Float = __m512;

    static inline Float load(const float* p) { return _mm512_loadu_ps(p); }
    static inline Float load_half(const half_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static inline Float load_bfloat(const uint16_t* p) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static inline Float splat(float f) { return _mm512_set1_ps(f); }
    static inline Float zero() { return _mm512_setzero_ps(); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static inline void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
    static inline void fetch(const void* p) {
        _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
    }
};

}  // namespace

void fill_linear_float(KernelTable& table) {
    fill_float<FloatVectors>(table);
}

}  // namespace tektra::avx512
