// Quantized linear layers with AVX-VNNI: `vpdpbusd` adds four products of unsigned weights and
// signed activations to an int32, eight matrix rows at a time.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avxvnni {
namespace {

struct Vectors : Vectors256 {
    static constexpr bool kSignedProducts = false;

    // int32 has room for every product: the chain does not matter
    template <int kChain, bool kSigned>
    static inline Int dot(const Int* q, const int8_t* x) {
        Int total = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            int32_t four;
            std::memcpy(&four, x + 4 * i, sizeof four);
            total = _mm256_dpbusd_avx_epi32(total, q[i], _mm256_set1_epi32(four));
        }
        return total;
    }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avxvnni
