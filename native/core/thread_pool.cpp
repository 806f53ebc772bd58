#include "tektra/thread_pool.h"

#include <chrono>
#include <utility>

#include "float_state.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tektra {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#else
    std::this_thread::yield();
#endif
}

// Longer than what lies between two loops of a step, shorter than anything a person would notice
// in the processor's load.
constexpr auto kSpin = std::chrono::microseconds(200);
// A caller that has waited so long gives its core away: with more threads than free cores, the
// worker that it waits for may need it.
constexpr auto kYieldAfter = std::chrono::microseconds(50);
// The clock is looked at once in so many rounds.
constexpr int kRounds = 64;

constexpr uint64_t kLoop = uint64_t{1} << 32;  // one in the number of the loop
constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kInside = kOpen - 1;  // mask of the number of workers inside

}  // namespace

ThreadPool::ThreadPool(size_t num_threads) : shares_(num_threads) {
    try {
        for (size_t i = 1; i < num_threads; ++i) {
            workers_.emplace_back([this, i] { work(i); });
        }
    } catch (...) {
        end_workers();  // a running thread must not be destroyed
        throw;
    }
}

ThreadPool::~ThreadPool() {
    end_workers();
}

void ThreadPool::end_workers() {
    stop_.store(true);
    wake_.fetch_add(1);
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_erased(size_t num_tasks, Erased function, const void* context) {
    if (workers_.empty() || num_tasks <= 1) {
        for (size_t task = 0; task < num_tasks; ++task) function(context, task, 0);
        return;
    }
    // nobody is inside: the last loop was closed and left
    function_ = function;
    context_ = context;
    for (size_t i = 0; i < shares_.size(); ++i) {
        shares_[i].next.store(first_task(i, num_tasks), std::memory_order_relaxed);
        shares_[i].end = first_task(i + 1, num_tasks);
    }
    const uint64_t loop = (state_.load(std::memory_order_relaxed) & ~(kLoop - 1)) + kLoop;
    state_.store(loop | kOpen, std::memory_order_release);
    // sequentially consistent with the sleepers' count: either this sees a sleeper, or the sleeper
    // sees the change
    wake_.fetch_add(1);
    if (num_asleep_.load() != 0) wake_.notify_all();

    take_tasks(0);

    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    std::chrono::steady_clock::time_point since{};
    for (int round = 1; (state_.load(std::memory_order_acquire) & kInside) != 0; ++round) {
        relax();
        if (round % kRounds != 0) continue;
        const auto now = std::chrono::steady_clock::now();
        if (since == std::chrono::steady_clock::time_point{}) {
            since = now;
        } else if (now - since > kYieldAfter) {
            std::this_thread::yield();
        }
    }
    if (failed_.load(std::memory_order_relaxed)) {
        failed_.store(false, std::memory_order_relaxed);
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

void ThreadPool::take_tasks(size_t thread) {
    try {
        // its own share first, then what others have not begun
        for (size_t i = 0; i < shares_.size(); ++i) {
            Share& share = shares_[(thread + i) % shares_.size()];
            for (;;) {
                const size_t task = share.next.fetch_add(1, std::memory_order_relaxed);
                if (task >= share.end) break;
                function_(context_, task, thread);
            }
        }
    } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
        // nobody begins another one
        for (Share& share : shares_) share.next.store(share.end, std::memory_order_relaxed);
    }
}

void ThreadPool::work(size_t thread) {
    const DefaultFloats floats;
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = wake_.load(std::memory_order_acquire);
        if (now == seen) {
            const auto until = std::chrono::steady_clock::now() + kSpin;
            for (int round = 1; (now = wake_.load(std::memory_order_acquire)) == seen; ++round) {
                relax();
                if (round % kRounds == 0 && std::chrono::steady_clock::now() > until) {
                    num_asleep_.fetch_add(1);
                    while ((now = wake_.load()) == seen) wake_.wait(seen);
                    num_asleep_.fetch_sub(1);
                    break;
                }
            }
        }
        seen = now;
        if (stop_.load()) return;
        // enter the loop, unless it is over already
        uint64_t state = state_.load(std::memory_order_relaxed);
        while ((state & kOpen) != 0 &&
               !state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
        }
        if ((state & kOpen) == 0) continue;
        take_tasks(thread);
        state_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace tektra
