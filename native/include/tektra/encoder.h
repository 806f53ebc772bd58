// Encodes matrices for a GGUF file on several threads. It knows kernels and threads; which tensor
// becomes what is decided in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "tektra/encode_kernels.h"
#include "tektra/kernel_table.h"
#include "tektra/thread_pool.h"

namespace tektra {

// Safe to call from several threads: one call runs at a time.
class Encoder {
  public:
    // Throws std::system_error where the threads cannot be had.
    Encoder(const KernelTable& kernels, size_t num_threads)
        : kernels_(kernels), pool_(num_threads) {}

    // Bytes of a row of `width` elements; 0 where the type has no kernel or the width does not fit.
    size_t row_bytes(int32_t type, size_t width) const;

    // Encodes rows of floats of the type `source` (F32, F16 or BF16), side by side. `importance`
    // has `width` values above zero or is null. `out` takes num_rows * row_bytes(type, width).
    // Throws std::invalid_argument for a type that has no kernel.
    EncodeResult run(int32_t type, WeightType source, const uint8_t* rows, size_t num_rows,
                     size_t width, const float* importance, uint8_t* out);

    size_t num_threads() const { return pool_.num_threads(); }

  private:
    const KernelTable& kernels_;
    ThreadPool pool_;
    std::mutex mutex_;
};

}  // namespace tektra
