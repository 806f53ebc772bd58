// The table for Arm processors with int8 matrix products (Armv8.6: servers since 2021, Apple's
// since 2022). What it does not fill is what NEON has, and so is the packed layout.
#include "tables.h"

namespace tektra::neoni8mm {

void fill(KernelTable& table) {
    table.name = "neoni8mm";
    fill_linear_int8(table);
    fill_peaks(table);
}

}  // namespace tektra::neoni8mm
