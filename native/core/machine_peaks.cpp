#include "tektra/machine_peaks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "float_state.h"

namespace tektra {
namespace {

// A thread that loses its core for a moment leaves what it has not begun to the others, as in the
// program.
constexpr size_t kTasksPerThread = 8;
constexpr size_t kRounds = 4096;
// A sample is the best of short ones: somebody else on the core then spoils few of them.
constexpr size_t kParts = 8;
constexpr auto kSample = std::chrono::milliseconds(4);
constexpr size_t kLoops = 2000;
constexpr size_t kMeetings = 200;

// What loops compute goes here, so that no compiler leaves them out.
std::atomic<uint64_t> sink{0};

template <class Function>
double seconds_of(const Function& function) {
    const auto start = std::chrono::steady_clock::now();
    function();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    return std::max(taken.count(), 1e-9);
}

size_t checked_threads(size_t num_threads) {
    constexpr size_t kMost = 1024;
    if (num_threads < 1 || num_threads > kMost) {
        throw std::invalid_argument(std::to_string(num_threads) + " threads; 1 to " +
                                    std::to_string(kMost) + " are possible");
    }
    return num_threads;
}

size_t checked_bytes(size_t bytes) {
    constexpr size_t kLeast = 1u << 20;
    if (bytes < kLeast) throw std::invalid_argument("a buffer of less than 1 MiB");
    return bytes / 64 * 64;
}

}  // namespace

MachinePeaks::MachinePeaks(const KernelTable& kernels, size_t num_threads, size_t buffer_bytes)
    : kernels_(kernels),
      pool_(checked_threads(num_threads)),
      buffer_(checked_bytes(buffer_bytes), true) {
    // pages exist from the first time that they are written
    const size_t share = std::max<size_t>(64, buffer_.size() / 64 / pool_.num_threads());
    pool_.run((buffer_.size() + share - 1) / share, [&](size_t task, size_t) {
        const size_t begin = task * share;
        std::memset(buffer_.data() + begin, static_cast<int>(task % 251 + 1),
                    std::min(share, buffer_.size() - begin));
    });
}

double MachinePeaks::read_bytes_per_second() {
    const size_t part = buffer_.size() / kParts / 64 * 64;
    const size_t tasks = kTasksPerThread * pool_.num_threads();
    const size_t share = (part / tasks + 63) / 64 * 64;
    double best = 0.0;
    for (size_t i = 0; i < kParts; ++i) {
        const uint8_t* data = buffer_.data() + i * part;
        const double seconds = seconds_of([&] {
            pool_.run((part + share - 1) / share, [&](size_t task, size_t) {
                const size_t begin = task * share;
                const uint64_t sum =
                    kernels_.peaks.read(data + begin, std::min(share, part - begin));
                sink.fetch_add(sum, std::memory_order_relaxed);
            });
        });
        best = std::max(best, static_cast<double>(part) / seconds);
    }
    return best;
}

double MachinePeaks::rounds_per_second(void (*rounds)(size_t)) {
    const DefaultFloats floats;
    const size_t tasks = kTasksPerThread * pool_.num_threads();
    double best = 0.0;
    const auto until = std::chrono::steady_clock::now() + kSample;
    do {
        const double seconds =
            seconds_of([&] { pool_.run(tasks, [&](size_t, size_t) { rounds(kRounds); }); });
        best = std::max(best, static_cast<double>(tasks * kRounds) / seconds);
    } while (std::chrono::steady_clock::now() < until);
    return best;
}

double MachinePeaks::int8_per_second() {
    return static_cast<double>(kernels_.peaks.int8_in_round) *
           rounds_per_second(kernels_.peaks.int8_rounds);
}

double MachinePeaks::float_per_second() {
    return static_cast<double>(kernels_.peaks.float_in_round) *
           rounds_per_second(kernels_.peaks.float_rounds);
}

double MachinePeaks::loop_seconds() {
    const size_t tasks = kTasksPerThread * pool_.num_threads();
    return seconds_of([&] {
               for (size_t i = 0; i < kLoops; ++i) pool_.run(tasks, [](size_t, size_t) {});
           }) /
           kLoops;
}

double MachinePeaks::meeting_seconds() {
    const size_t threads = pool_.num_threads();
    return seconds_of([&] {
               for (size_t i = 0; i < kMeetings; ++i) {
                   std::atomic<size_t> come{0};
                   pool_.run(threads, [&](size_t, size_t) {
                       come.fetch_add(1);
                       for (size_t turn = 1; come.load(std::memory_order_acquire) < threads;) {
                           // with fewer free cores than threads, somebody waits for this one
                           if (++turn % 4096 == 0) std::this_thread::yield();
                       }
                   });
               }
           }) /
           kMeetings;
}

}  // namespace tektra
