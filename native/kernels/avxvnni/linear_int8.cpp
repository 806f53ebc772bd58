// Quantized linear layers with AVX-VNNI: `vpdpbusd` adds four products of unsigned weights and
// signed activations to an int32, eight matrix rows at a time.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avxvnni {
namespace {

struct Vectors : Vectors256 {
    static constexpr bool kSignedProducts = false;

    // int32 sum of 16 products
    static inline Int half(const Int* q, const int8_t* x) {
        Int total = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            int32_t four;
            std::memcpy(&four, x + 4 * i, sizeof four);
            total = _mm256_dpbusd_avx_epi32(total, q[i], _mm256_set1_epi32(four));
        }
        return total;
    }

    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = half(q, a.q), high = half(q + 4, a.q + 16);
        if constexpr (F::kSumFitsInt16) {  // both sums side by side, times both factors
            int32_t factors;
            std::memcpy(&factors, a.factor, sizeof factors);
            const Int pairs = _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
            return to_float(_mm256_madd_epi16(pairs, _mm256_set1_epi32(factors)));
        }
        return fmadd(to_float(high), splat(a.scale[1]), mul(to_float(low), splat(a.scale[0])));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = to_float(half(q, a.q + 16 * h)), scale = splat(a.scale[h]);
        return F::kPart == Part::kCentre ? fmadd(sum, scale, splat(a.centre[h])) : mul(sum, scale);
    }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avxvnni
