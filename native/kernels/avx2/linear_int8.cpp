// Quantized linear layers with AVX2: `maddubs` gives sums of pairs in int16, `madd` widens them.
#include "../shared/vectors256.h"
#include "tables.h"

namespace tektra::avx2 {
namespace {

using Vectors = PairDots<Vectors256>;

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::avx2
