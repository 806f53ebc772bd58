// One table of function pointers, chosen at load: what an instruction set has it fills in over the
// set below it. `scalar` fills everything and is the readable truth of every kernel.
//
// Determinism: each output element is computed by one call, in an order that depends only on the
// shapes of its own row, so results do not change with the batch, the tiling or the threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tektra/attention_kernels.h"
#include "tektra/encode_kernels.h"
#include "tektra/packed_blocks.h"
#include "tektra/sampling_kernels.h"

namespace tektra {

// Weight types with kernels; ids as in GGUF.
enum class WeightType : int32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
};
constexpr int kMaxWeightType = 64;

// out[row][group * lanes + lane] = bias + addend + sum over k of x[row][k] * w[lane][k]
struct LinearTask {
    const uint8_t* weights;  // packed matrix
    size_t group_begin;
    size_t group_end;
    size_t width;      // elements in a row of the matrix and of x
    size_t out_width;  // rows of the matrix; the last group may reach past it
    const uint8_t* x;  // rows of floats, or quantized rows where the kernel wants them
    size_t x_stride;   // bytes from row to row
    size_t terms;      // quantized rows that add up to a row of x, x_stride / terms bytes apart
    size_t num_rows;
    float* out;
    size_t out_stride;     // floats
    const float* bias;     // [out_width] or null
    const float* addend;   // rows like out's, or null; may be out itself
    size_t addend_stride;  // floats
};

struct LinearKernel {
    size_t lanes;          // matrix rows in a group; 0: no kernel for this type
    size_t block_width;    // elements along the width in a block; the width is a multiple of it
    size_t block_bytes;    // bytes of a packed block of a group
    size_t source_bytes;   // bytes of one row's block in the file
    bool quantized_input;  // x is rows of ActivationBlock
    // Packs one group from up to `lanes` rows of the file that lie side by side.
    void (*pack)(const uint8_t* rows, size_t num_rows, size_t row_bytes, size_t width,
                 uint8_t* group);
    // One row out of a packed group, as floats.
    void (*unpack_row)(const uint8_t* group, size_t lane, size_t width, float* out);
    void (*run)(const LinearTask& task);

    size_t group_bytes(size_t width) const { return width / block_width * block_bytes; }
    // Of a whole packed matrix, or of `count` of one shape that lie one after the other. Kernels
    // may look up to 64 bytes past its last block.
    size_t matrix_bytes(size_t rows, size_t width, size_t count = 1) const {
        return (count * ((rows + lanes - 1) / lanes) * group_bytes(width) + 63) / 64 * 64 + 64;
    }
};

// Row kernels: `n` elements of one row. Input and output may be the same row.
struct RowKernels {
    // n is a multiple of 32; out is quantized_row_bytes(n), 64-byte aligned. An element that is not
    // finite makes the row's D not finite.
    void (*quantize)(const float* x, size_t n, uint8_t* out);
    void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* out);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, size_t n, float eps,
                       float* out);
    // cos and sin [dim / 2] of the row; rotates the first dim elements of each head
    void (*rope_interleaved)(const float* x, const float* cos, const float* sin, size_t heads,
                             size_t head_dim, size_t dim, float* out);
    void (*rope_half)(const float* x, const float* cos, const float* sin, size_t heads,
                      size_t head_dim, size_t dim, float* out);
    // functions are numbered as in `ActivationKind`
    void (*activate)(const float* x, size_t n, int function, float* out);
    void (*gated)(const float* gate, const float* up, size_t n, int function, float* out);
    void (*add)(const float* a, const float* b, size_t n, float* out);
    void (*mul)(const float* a, const float* b, size_t n, float* out);
    void (*scale)(const float* x, size_t n, float factor, float* out);
    void (*softcap)(const float* x, size_t n, float cap, float* out);
    void (*to_half)(const float* x, size_t n, half_t* out);
};

enum ActivationKind { kSilu, kGelu, kGeluTanh, kRelu, kSigmoid, kTanh, kNumActivations };

// Loops over the instructions that kernels are made of, to measure what a core can do at most
// (machine_peaks.h). Each sum feeds its next product, so that no compiler takes one out of a loop;
// there are sums enough to hide how long an instruction takes.
struct PeakKernels {
    size_t int8_in_round;   // multiply-adds
    size_t float_in_round;  // multiply-adds
    void (*int8_rounds)(size_t rounds);
    void (*float_rounds)(size_t rounds);
    // Reads bytes, a multiple of 64, and returns what depends on all of them.
    uint64_t (*read)(const uint8_t* data, size_t bytes);
};

struct KernelTable {
    const char* name;
    LinearKernel linear[kMaxWeightType];
    RowKernels rows;
    AttentionKernel attend[kNumKvTypes];
    const SamplingKernels* sampling;
    const EncodeKernels* encode;
    PeakKernels peaks;
};

namespace scalar {
void fill(KernelTable& table);
}
namespace avx2 {
void fill(KernelTable& table);
}
namespace avxvnni {
void fill(KernelTable& table);
}
namespace avx512 {
void fill(KernelTable& table);
}
namespace avx512vnni {
void fill(KernelTable& table);
}
namespace neon {
void fill(KernelTable& table);
}
namespace neondot {
void fill(KernelTable& table);
}
namespace neoni8mm {
void fill(KernelTable& table);
}

// The table for `isa` ("scalar", "avx2", ...), or the best this machine runs where it is empty.
// Throws std::invalid_argument for a name that was not compiled or that the machine lacks.
const KernelTable& kernel_table(const char* isa);

// Names how a table's kernels lay weights out: tables of one name read each other's packed
// matrices. It holds `kPackedVersion`, and changes with the rows of a group and the sizes of blocks
// by itself.
std::string packed_layout(const KernelTable& table);

// Names that were compiled in, and those of them that this machine runs; best last.
size_t compiled_isas(const char* const** names);
bool isa_runs_here(const char* name);

}  // namespace tektra
