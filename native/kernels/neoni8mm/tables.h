// What each file of the NEON matrix-product set puts into the kernel table.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::neoni8mm {

void fill_linear_int8(KernelTable& table);
void fill_peaks(KernelTable& table);

}  // namespace tektra::neoni8mm
