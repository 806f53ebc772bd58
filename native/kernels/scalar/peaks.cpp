// Peak loops without vector instructions of our own: what the compiler makes of plain arithmetic.
#include "../shared/peaks.h"

#include <cstring>

#include "tables.h"

namespace tektra::scalar {
namespace {

struct Int8 {
    static constexpr int kSums = 8;
    using Vector = uint32_t;
    static Vector start(int i) { return static_cast<Vector>(i) + 3; }
    static Vector step(Vector sum, Vector factor) {
        return sum + static_cast<Vector>(static_cast<int8_t>(sum) * static_cast<int8_t>(factor));
    }
    static uint64_t use(Vector sum) { return sum; }
};

struct Floats {
    static constexpr int kSums = 16;
    using Vector = float;
    static Vector start(int i) { return i < kSums ? 1.0f + static_cast<float>(i) : 0.5f; }
    static Vector step(Vector sum, Vector factor) { return sum * factor + factor; }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(sum); }
};

uint64_t read(const uint8_t* data, size_t bytes) {
    uint64_t sums[4] = {};
    for (size_t at = 0; at < bytes; at += 64) {
        uint64_t words[8];
        std::memcpy(words, data + at, sizeof words);
        for (int i = 0; i < 8; ++i) sums[i % 4] += words[i];
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks = {Int8::kSums, Floats::kSums, peak_rounds<Int8>, peak_rounds<Floats>, read};
}

}  // namespace tektra::scalar
