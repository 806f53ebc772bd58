// The AVX2 table: what it does not fill stays scalar.
#include "tables.h"

namespace tektra::avx2 {

void fill(KernelTable& table) {
    table.name = "avx2";
    fill_linear_int8(table);
    fill_linear_float(table);
    fill_rows(table);
    fill_quantize(table);
    fill_attention(table);
    fill_peaks(table);
    table.sampling = &kAvx2Sampling;
    table.encode = &kAvx2Encode;
}

}  // namespace tektra::avx2
