// Packing into groups of interleaved rows (packed_blocks.h) and unpacking one row of them again.
// The layout is shared by all instruction sets whose vectors hold as many floats.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra::scalar {

// Fills the layout, packing and unpacking entries of every weight type for groups of kLanes rows
// (8 or 16); `run` is left alone.
template <int kLanes>
void fill_packing(KernelTable& table);

}  // namespace tektra::scalar
