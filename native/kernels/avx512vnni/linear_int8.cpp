// Quantized linear layers with AVX-512 and VNNI: `vpdpbusd` on sixteen matrix rows at a time,
// activations broadcast by the load itself.
#include "../shared/vectors512.h"
#include "tables.h"

namespace tektra::avx512vnni {
namespace {

struct Vectors : QuadDots<Vectors, Vectors512> {
    static inline Int dot4(Int sum, Int q, Int x) { return _mm512_dpbusd_epi32(sum, q, x); }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx512vnni
