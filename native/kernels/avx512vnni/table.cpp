// The AVX-512 table, for processors with VNNI: quantized linear layers on groups
// of sixteen rows, and attention.
// What it does not fill is what AVX2 has.
#include "tables.h"

namespace tektra::avx512vnni {

void fill(KernelTable& table) {
    table.name = "avx512vnni";
    fill_linear_int8(table);
    fill_attention(table);
}

}  // namespace tektra::avx512vnni
