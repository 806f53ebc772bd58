// Quantized linear layers with AVX-512 without VNNI: what AVX2 does, on sixteen matrix rows at a
// time.
#include "../shared/vectors512.h"
#include "tables.h"

namespace tektra::avx512 {
namespace {

using Vectors = PairDots<Vectors512>;

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx512
