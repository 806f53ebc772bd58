// What surrounds the integers of a quantized row, for every set of vector instructions; see
// ActivationBlock. Internal linkage: each set compiles a copy of its own.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "tektra/packed_blocks.h"

namespace tektra {
namespace {

// Begins a row whose largest magnitude has these bits: writes D and returns the magnitude. 0 for a
// row that has no integers, which is then finished: zeros, or D is not finite.
inline float begin_row(uint32_t largest_bits, size_t num_blocks, uint8_t* out) {
    float top;
    std::memcpy(&top, &largest_bits, sizeof top);
    const float d = top / (127.0f * kMaxFactor);
    std::memcpy(out + num_blocks * sizeof(ActivationBlock), &d, sizeof d);
    if (top >= kSmallestRow && top <= std::numeric_limits<float>::max()) return top;
    std::memset(out, 0, num_blocks * sizeof(ActivationBlock));
    return 0.0f;
}

// All of a block but its integers: `factor` and `sum`, factor * (sum of integers), of its halves.
inline void finish_block(const float* factor, const float* sum, ActivationBlock& a) {
    for (int h = 0; h < 2; ++h) {
        a.factor[h] = a.twice[h][0] = a.twice[h][1] = static_cast<int16_t>(factor[h]);
        a.scale[h] = factor[h];
        a.centre[h] = -32.0f * sum[h];
    }
    a.total = sum[0] + sum[1];
}

}  // namespace
}  // namespace tektra
