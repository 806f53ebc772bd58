// The AVX-512 table, for processors with VNNI: linear layers on groups of sixteen rows, and
// attention. What it does not fill is what AVX2 has.
#include "../scalar/pack.h"
#include "tables.h"

namespace tektra::avx512vnni {

void fill(KernelTable& table) {
    table.name = "avx512vnni";
    scalar::fill_packing<16>(table);
    fill_linear_int8(table);
    fill_linear_float(table);
    fill_attention(table);
    fill_peaks(table);
}

}  // namespace tektra::avx512vnni
