// The table for AVX-512 (F, BW and VL): linear layers on groups of sixteen rows, attention and row
// kernels. What it does not fill is what AVX2 has.
#include "../scalar/pack.h"
#include "tables.h"

namespace tektra::avx512 {

void fill(KernelTable& table) {
    table.name = "avx512";
    scalar::fill_packing<16>(table);
    fill_linear_int8(table);
    fill_linear_float(table);
    fill_rows(table);
    fill_quantize(table);
    fill_attention(table);
    fill_peaks(table);
    table.encode = &kAvx512Encode;
}

}  // namespace tektra::avx512
