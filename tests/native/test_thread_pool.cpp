// The pool runs every task exactly once, loop after loop, busy or after sleeping.
#include <atomic>
#include <chrono>
#include <thread>

#include "check.h"
#include "tektra/thread_pool.h"

int main() {
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
    return failures == 0 ? 0 : 1;
}
