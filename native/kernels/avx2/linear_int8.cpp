// Quantized linear layers with AVX2: `maddubs` gives int16 sums of pairs, as many of which are
// added as the range of the format allows; `madd` widens them and multiplies them by the factor of
// the activations in one go.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avx2 {
namespace {

struct Vectors : Vectors256 {
    static constexpr bool kSignedProducts = true;

    // int32: factor * (sum of 16 products)
    template <class F>
    static inline Int half(const Int* q, const ActivationBlock& a, int h) {
        constexpr int kCount = 4;
        int32_t twice;
        std::memcpy(&twice, a.twice[h], sizeof twice);
        const Int factor = _mm256_set1_epi32(twice);
        Int total = _mm256_setzero_si256();
        for (int j = 0; j < kCount; j += F::kChain) {
            Int sum = _mm256_setzero_si256();
            for (int i = j; i < j + F::kChain && i < kCount; ++i) {
                int32_t four;
                std::memcpy(&four, a.q + 16 * h + 4 * i, sizeof four);
                const Int x = _mm256_set1_epi32(four);
                Int product;
                if constexpr (F::kSigned) {  // |q| * (sign of q) x: the first factor is unsigned
                    product = _mm256_maddubs_epi16(_mm256_sign_epi8(q[i], q[i]),
                                                   _mm256_sign_epi8(x, q[i]));
                } else {
                    product = _mm256_maddubs_epi16(q[i], x);
                }
                sum = i == j ? product : _mm256_add_epi16(sum, product);
            }
            const Int wide = _mm256_madd_epi16(sum, factor);
            total = j == 0 ? wide : _mm256_add_epi32(total, wide);
        }
        return total;
    }

    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = half<F>(q, a, 0), high = half<F>(q + 4, a, 1);
        if constexpr (F::kSigned) return add(to_float(low), to_float(high));
        return to_float(_mm256_add_epi32(low, high));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = to_float(half<F>(q, a, h));
        return F::kPart == Part::kCentre ? add(sum, splat(a.centre[h])) : sum;
    }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx2
