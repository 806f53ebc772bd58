// Quantized linear layers with AVX2: `maddubs` gives int16 sums of pairs, as many of which are
// added as the range of the format allows before they are widened.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avx2 {
namespace {

struct Vectors : Vectors256 {
    static constexpr bool kSignedProducts = true;

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
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx2
