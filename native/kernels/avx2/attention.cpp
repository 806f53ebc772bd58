// Attention with vectors of eight floats.
#include "../shared/attention_float.h"
#include "../shared/attention_int8.h"
#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

#if defined(__GNUC__)
using Float8 = float __attribute__((vector_size(32)));
#endif

struct Vectors {
    static constexpr size_t kLanes = 8;
    static constexpr int kTile = 3;
    static constexpr int kWide = 4;
    using Float = __m256;

    static inline Float load(const float* p) { return _mm256_loadu_ps(p); }
    static inline Float load(const half_t* p) { return load_half(p); }
    static inline float single(const float* p) { return *p; }
    static inline float single(const half_t* p) { return _cvtsh_ss(*p); }
    static inline Float splat(float f) { return _mm256_set1_ps(f); }
    static inline Float zero() { return _mm256_setzero_ps(); }
    static inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static inline Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static inline Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static inline Float fmadd(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static inline void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
    static inline Float power(Float v) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 23));
    }
    static inline Float soft_cap(Float v, float cap) {
        return _mm256_mul_ps(_mm256_set1_ps(cap), tanh(_mm256_div_ps(v, _mm256_set1_ps(cap))));
    }
    static inline Float only(Float v, int at, int first, int last, Float other) {
        const __m256i lanes =
            _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(at));
        const __m256i seen =
            _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lanes),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lanes));
        return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(seen));
    }
    static inline float sum_lanes(Float v) { return avx2::sum_lanes(v); }
    static inline float max_lanes(Float v) { return avx2::max_lanes(v); }

    using Int = __m256i;
#if defined(__GNUC__)
    using Sum = int32_t __attribute__((vector_size(32)));
    static inline Sum dot(Int a, Int b, Sum c) { return c + (Sum)_mm256_madd_epi16(a, b); }
    static inline Sum none() { return Sum{}; }
    static inline Float to_float(Sum v) { return (__m256) __builtin_convertvector(v, Float8); }
#else
    using Sum = __m256i;
    static inline Sum dot(Int a, Int b, Sum c) {
        return _mm256_add_epi32(c, _mm256_madd_epi16(a, b));
    }
    static inline Sum none() { return _mm256_setzero_si256(); }
    static inline Float to_float(Sum v) { return _mm256_cvtepi32_ps(v); }
#endif
    static inline Int pairs(const int16_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static inline Int pairs(const int8_t* p) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static inline void store_pairs(int16_t* p, Int v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
    }
    static inline Int splat_pair(const float* p) {
        return _mm256_castps_si256(_mm256_broadcast_ss(p));
    }
    static inline void store_codes(int16_t* p, Float v) {
        const __m256i whole = _mm256_cvtps_epi32(v);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(p),
            _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
    }
    static inline void fetch(const uint8_t* p) {
        _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
    }
};

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kF16)] = FloatAttention<Vectors>::run<half_t>;
    table.attend[static_cast<size_t>(KvType::kF32)] = FloatAttention<Vectors>::run<float>;
    table.attend[static_cast<size_t>(KvType::kInt8)] = Int8Attention<Vectors>::run;
}

}  // namespace tektra::avx2
