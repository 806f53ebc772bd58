// A fixed set of threads that share the tasks of one loop at a time with the calling thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace tektra {

// Threads spin for a moment after a loop, since the next one usually follows within microseconds,
// and sleep after that: an idle pool uses no processor time.
class ThreadPool {
  public:
    // `num_threads` counts the calling thread; at least 1. Throws std::system_error where the
    // system does not give so many.
    explicit ThreadPool(size_t num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    size_t num_threads() const { return workers_.size() + 1; }

    // Calls function(task, thread) for every task in [0, num_tasks), each exactly once, on any
    // thread, and returns when all are done. The calling thread is thread 0. One loop at a time.
    // Each thread works through a share of neighbouring tasks in order, so that what it reads from
    // memory is a stream, and then helps the others; thread i begins at first_task(i, num_tasks).
    // When a task throws, tasks that nobody has begun are left out and the first exception is
    // thrown here, once all threads have left the loop.
    template <class Function>
    void run(size_t num_tasks, const Function& function) {
        run_erased(
            num_tasks,
            [](const void* context, size_t task, size_t thread) {
                (*static_cast<const Function*>(context))(task, thread);
            },
            &function);
    }

    size_t first_task(size_t thread, size_t num_tasks) const {
        return thread * num_tasks / num_threads();
    }

  private:
    struct alignas(64) Share {
        std::atomic<size_t> next{0};
        size_t end = 0;
    };
    using Erased = void (*)(const void* context, size_t task, size_t thread);

    void run_erased(size_t num_tasks, Erased function, const void* context);
    void work(size_t thread);
    void take_tasks(size_t thread);
    void end_workers();

    // Written by the caller while no worker is inside a loop, read by workers that are.
    Erased function_ = nullptr;
    const void* context_ = nullptr;
    std::vector<Share> shares_;  // of each thread
    // Of the task that set `failed_` first; the caller reads it when all have left the loop.
    std::exception_ptr error_;
    std::atomic<bool> failed_{false};

    // Number of the loop (upper half), whether it can be entered (kOpen), and how many workers are
    // inside (lower bits). The caller waits for those that entered only: a worker that is asleep or
    // has lost its core to somebody else holds nobody up.
    alignas(64) std::atomic<uint64_t> state_{0};
    // Changes with each loop; what sleeping workers wait on.
    alignas(64) std::atomic<uint32_t> wake_{0};
    std::atomic<uint32_t> num_asleep_{0};
    std::atomic<bool> stop_{false};
    std::vector<std::thread> workers_;
};

}  // namespace tektra
