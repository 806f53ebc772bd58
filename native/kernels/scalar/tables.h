// What each file of the scalar set puts into the kernel table.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::scalar {

void fill_linear(KernelTable& table);
void fill_rows(KernelTable& table);
void fill_attention(KernelTable& table);
void fill_peaks(KernelTable& table);

}  // namespace tektra::scalar
