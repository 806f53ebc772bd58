// The table for AVX-512 with VNNI. What it does not fill is what AVX-512 has, and so is the packed
// layout.
#include "tables.h"

namespace tektra::avx512vnni {

void fill(KernelTable& table) {
    table.name = "avx512vnni";
    fill_linear_int8(table);
    fill_attention(table);
    fill_peaks(table);
}

}  // namespace tektra::avx512vnni
