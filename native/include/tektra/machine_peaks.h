// What this machine can do at most: reading memory, the multiply-adds that kernels are made of, and
// the cost of a parallel loop. Kernels are judged by their share of it.
#pragma once

#include <cstddef>

#include "tektra/kernel_table.h"
#include "tektra/memory.h"
#include "tektra/thread_pool.h"

namespace tektra {

// Takes samples: each call measures once, for some milliseconds, on all threads. What a machine can
// do at most is the best of several, taken between the runs that are compared with it.
class MachinePeaks {
  public:
    // `buffer_bytes` are read from memory: several times what the caches hold. Throws
    // std::invalid_argument, std::system_error, std::bad_alloc.
    MachinePeaks(const KernelTable& kernels, size_t num_threads, size_t buffer_bytes);

    double read_bytes_per_second();
    // Multiply-adds of bytes, and of floats, on registers alone.
    double int8_per_second();
    double float_per_second();
    // Seconds of a parallel loop with nothing to do: as the caller sees it, with as many tasks as
    // a linear op has; and until every thread has come and gone, one task each.
    double loop_seconds();
    double meeting_seconds();

    const char* isa() const { return kernels_.name; }
    size_t num_threads() const { return pool_.num_threads(); }

  private:
    double rounds_per_second(void (*rounds)(size_t));

    const KernelTable& kernels_;
    ThreadPool pool_;
    Memory buffer_;
};

}  // namespace tektra
