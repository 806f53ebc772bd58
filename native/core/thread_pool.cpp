#include "tektra/thread_pool.h"

#include <chrono>

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
// Looks at the clock only once in so many rounds.
constexpr int kRounds = 64;
// A caller that has waited so long gives its core away: with more threads than free cores, the
// worker that it waits for may need it.
constexpr auto kYieldAfter = std::chrono::microseconds(50);

}  // namespace

ThreadPool::ThreadPool(size_t num_threads) {
    for (size_t i = 1; i < num_threads; ++i) {
        workers_.emplace_back([this, i] { work(i); });
    }
}

ThreadPool::~ThreadPool() {
    stop_.store(true);
    loop_.fetch_add(1);
    loop_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_erased(size_t num_tasks, Erased function, const void* context) {
    if (workers_.empty() || num_tasks <= 1) {
        for (size_t task = 0; task < num_tasks; ++task) function(context, task, 0);
        return;
    }
    function_ = function;
    context_ = context;
    num_tasks_ = num_tasks;
    next_task_.store(0, std::memory_order_relaxed);
    num_working_.store(workers_.size(), std::memory_order_relaxed);
    // sequentially consistent with the sleepers' count: either this sees a sleeper, or the sleeper
    // sees the new loop
    loop_.fetch_add(1);
    if (num_asleep_.load() != 0) loop_.notify_all();
    take_tasks(0);
    // every worker must have left the loop before its description may change
    auto waiting_since = std::chrono::steady_clock::time_point{};
    for (int round = 0; num_working_.load(std::memory_order_acquire) != 0; ++round) {
        relax();
        if (round % kRounds != kRounds - 1) continue;
        const auto now = std::chrono::steady_clock::now();
        if (waiting_since == std::chrono::steady_clock::time_point{}) {
            waiting_since = now;
        } else if (now - waiting_since > kYieldAfter) {
            std::this_thread::yield();
        }
    }
}

void ThreadPool::take_tasks(size_t thread) {
    for (;;) {
        const size_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
        if (task >= num_tasks_) return;
        function_(context_, task, thread);
    }
}

void ThreadPool::work(size_t thread) {
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = loop_.load(std::memory_order_acquire);
        if (now == seen) {
            const auto until = std::chrono::steady_clock::now() + kSpin;
            for (int round = 0; (now = loop_.load(std::memory_order_acquire)) == seen; ++round) {
                relax();
                if (round % kRounds == kRounds - 1 && std::chrono::steady_clock::now() > until) {
                    num_asleep_.fetch_add(1);
                    while ((now = loop_.load()) == seen) loop_.wait(seen);
                    num_asleep_.fetch_sub(1);
                    break;
                }
            }
        }
        seen = now;
        if (stop_.load()) return;
        take_tasks(thread);
        num_working_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace tektra
