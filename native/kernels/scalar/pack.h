// Packing into groups of eight rows (packed_blocks.h) and unpacking one row of them again.
// The layout is shared by every instruction set whose vectors hold eight floats.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::scalar {

// Fills the layout, packing and unpacking entries of every weight type; `run` is left alone.
void fill_packing(KernelTable& table);

}  // namespace tektra::scalar
