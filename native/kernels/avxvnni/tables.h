// What each file of the AVX-VNNI set puts into the kernel table.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::avxvnni {

void fill_linear_int8(KernelTable& table);
void fill_peaks(KernelTable& table);

}  // namespace tektra::avxvnni
