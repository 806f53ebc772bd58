// The pool runs every task exactly once, loop after loop, busy or after sleeping; an exception in a
// task reaches the caller and leaves the pool as it was.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "tektra/thread_pool.h"

namespace {

void test_every_task_once() {
    for (const size_t threads : {1, 2, 5}) {
        tektra::ThreadPool pool(threads);
        CHECK(pool.num_threads() == threads, "%zu threads", pool.num_threads());
        for (int loop = 0; loop < 3000; ++loop) {
            const size_t tasks = static_cast<size_t>(loop) % 37;
            std::vector<std::atomic<int>> counts(tasks);
            pool.run(tasks, [&](size_t task, size_t thread) {
                if (thread >= threads) std::abort();
                counts[task].fetch_add(1);
            });
            for (size_t i = 0; i < tasks; ++i) {
                CHECK(counts[i].load() == 1, "loop %d: task %zu ran %d times", loop, i,
                      counts[i].load());
            }
            if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
}

// Tasks write plain memory that the caller reads after the loop: for the thread sanitizer.
void test_results_are_seen() {
    tektra::ThreadPool pool(3);
    std::vector<int> values(64);
    for (int loop = 0; loop < 2000; ++loop) {
        pool.run(values.size(), [&](size_t task, size_t) { values[task] += loop; });
    }
    for (const int value : values) CHECK(value == 1999 * 2000 / 2, "%d", value);
}

void test_exceptions() {
    for (const size_t threads : {1, 2, 5}) {
        tektra::ThreadPool pool(threads);
        for (int loop = 0; loop < 500; ++loop) {
            const size_t bad = static_cast<size_t>(loop) % 40;
            std::atomic<int> begun{0};
            bool caught = false;
            try {
                pool.run(40, [&](size_t task, size_t) {
                    begun.fetch_add(1);
                    if (task >= bad) throw std::runtime_error("a task failed");
                });
            } catch (const std::runtime_error&) {
                caught = true;
            }
            CHECK(caught, "%zu threads, loop %d: the exception was lost", threads, loop);
            CHECK(static_cast<size_t>(begun) <= bad + threads, "%d tasks begun after the failure",
                  begun.load());
            std::atomic<int> count{0};
            pool.run(10, [&](size_t, size_t) { count.fetch_add(1); });
            CHECK(count == 10, "after an exception: %d of 10 tasks", count.load());
        }
    }
}

}  // namespace

int main() {
    test_every_task_once();
    test_results_are_seen();
    test_exceptions();
    return failures == 0 ? 0 : 1;
}
