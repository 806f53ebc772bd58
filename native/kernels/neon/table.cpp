// The table for every 64-bit Arm: what it does not fill stays scalar.
#include "tables.h"

namespace tektra::neon {

void fill(KernelTable& table) {
    table.name = "neon";
    fill_linear_int8(table);
    fill_linear_float(table);
    fill_rows(table);
    fill_attention(table);
    fill_peaks(table);
}

}  // namespace tektra::neon
