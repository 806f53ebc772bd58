// Quantized linear layers with AVX-VNNI: `vpdpbusd` on eight matrix rows at a time.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avxvnni {
namespace {

struct Vectors : QuadDots<Vectors, Vectors256> {
    static inline Int dot4(Int sum, Int q, Int x) { return _mm256_dpbusd_avx_epi32(sum, q, x); }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avxvnni
