// What each file of the AVX-512 set puts into the kernel table.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::avx512 {

void fill_linear_int8(KernelTable& table);
void fill_linear_float(KernelTable& table);
void fill_rows(KernelTable& table);
void fill_quantize(KernelTable& table);
void fill_attention(KernelTable& table);
void fill_peaks(KernelTable& table);

}  // namespace tektra::avx512
