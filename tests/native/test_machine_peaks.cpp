// What the machine can do at most is measured on every instruction set: positive, finite, and in a
// range that no machine leaves; and the pool works as before when a measurement was refused.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "check.h"
#include "tektra/machine_peaks.h"

namespace {

using tektra::KernelTable;
using tektra::MachinePeaks;

void test_figures(const KernelTable& table, size_t threads) {
    MachinePeaks peaks(table, threads, size_t{4} << 20);
    const double rates[] = {peaks.read_bytes_per_second(), peaks.int8_per_second(),
                            peaks.float_per_second()};
    for (const double rate : rates) {
        CHECK(rate > 1e6 && rate < 1e15, "%s, %zu threads: %g", table.name, threads, rate);
    }
    const double seconds[] = {peaks.loop_seconds(), peaks.meeting_seconds()};
    for (const double s : seconds) {
        CHECK(s > 0.0 && s < 10.0, "%s, %zu threads: %g s", table.name, threads, s);
    }
    CHECK(peaks.num_threads() == threads, "%zu", peaks.num_threads());
    CHECK(std::strcmp(peaks.isa(), table.name) == 0, "%s", peaks.isa());
}

// Every byte counts: a loop that read less would call a machine faster than it is.
void test_reads_everything(const KernelTable& table) {
    alignas(64) uint8_t data[64 * 9] = {};
    const uint64_t nothing = table.peaks.read(data, sizeof data);
    for (size_t i = 0; i < sizeof data; ++i) {
        data[i] = 1;
        CHECK(table.peaks.read(data, sizeof data) != nothing, "%s: byte %zu", table.name, i);
        data[i] = 0;
    }
}

template <class Function>
bool refuses(const Function& function) {
    try {
        function();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

int main() {
    for (const KernelTable* table : tables()) {
        for (const size_t threads : {1, 2, 3}) test_figures(*table, threads);
        test_reads_everything(*table);
        CHECK(refuses([&] { MachinePeaks(*table, 0, 1 << 20); }), "no threads");
        CHECK(refuses([&] { MachinePeaks(*table, 1, 4096); }), "a buffer that fits the caches");
    }
    return failures == 0 ? 0 : 1;
}
