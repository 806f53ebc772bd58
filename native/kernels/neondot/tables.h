// What each file of the NEON dot-product set puts into the kernel table.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::neondot {

void fill_linear_int8(KernelTable& table);
void fill_peaks(KernelTable& table);

}  // namespace tektra::neondot
