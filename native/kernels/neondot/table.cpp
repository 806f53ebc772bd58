// The table for Arm processors with the dot-product instructions (most since 2018, all of Apple's).
// What it does not fill is what NEON has, and so is the packed layout.
#include "tables.h"

namespace tektra::neondot {

void fill(KernelTable& table) {
    table.name = "neondot";
    fill_linear_int8(table);
    fill_peaks(table);
}

}  // namespace tektra::neondot
