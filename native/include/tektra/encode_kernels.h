// Kernels that turn floats into the quantized blocks of a GGUF file. They search the scales (and
// minima) with the least weighted squared error; the weights come from the values themselves and,
// where there is one, from an importance matrix.
//
// Results are the same to the bit on every instruction set: blocks are encoded side by side, one a
// lane, and each lane has its own sequence of operations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tektra {

enum class EncodeResult { kDone, kNotFinite, kTooLarge };

struct EncodeKernel {
    size_t block_width;  // 0: no kernel for this type
    size_t block_bytes;
    // Encodes `num_blocks` blocks that lie side by side in `x`, beginning with a row of `width`
    // elements. `importance` has one value above zero for each of the columns, or is null.
    EncodeResult (*run)(const float* x, const float* importance, size_t width, size_t num_blocks,
                        uint8_t* out);
};

// One kernel for each type id of GGUF.
constexpr size_t kNumEncodeTypes = 64;
struct EncodeKernels {
    EncodeKernel of[kNumEncodeTypes];
};

extern const EncodeKernels kScalarEncode;
extern const EncodeKernels kAvx2Encode;
extern const EncodeKernels kAvx512Encode;

}  // namespace tektra
