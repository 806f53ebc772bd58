// Peak loops for any set of vector instructions. Internal linkage: each set compiles its own copy.
//
// A struct with the instructions has kBytes, kSums, Vector, start(i), step(sum, factor) and
// use(sum): one multiply-add instruction, and the sums that hide its latency.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tektra {
namespace {

template <class I>
void peak_rounds(size_t rounds) {
    typename I::Vector sums[I::kSums];
    for (int i = 0; i < I::kSums; ++i) sums[i] = I::start(i);
    const typename I::Vector factor = I::start(I::kSums);
    for (size_t r = 0; r < rounds; ++r) {
        for (int i = 0; i < I::kSums; ++i) sums[i] = I::step(sums[i], factor);
    }
    // read by nobody, which no compiler can know
    static std::atomic<uint64_t> sink;
    uint64_t used = 0;
    for (int i = 0; i < I::kSums; ++i) used += I::use(sums[i]);
    sink.store(used, std::memory_order_relaxed);
}

}  // namespace
}  // namespace tektra
