// The peak loop of Arm's int8 matrix products: `smmla`, 32 multiply-adds.
#include "../shared/peaks.h"

#include <arm_neon.h>

#include "tables.h"

namespace tektra::neoni8mm {
namespace {

struct Int8 {
    static constexpr int kSums = 16;
    using Vector = int32x4_t;
    static Vector start(int i) { return vdupq_n_s32(0x01010101 * (i + 3)); }
    static Vector step(Vector sum, Vector factor) {
        return vmmlaq_s32(sum, vreinterpretq_s8_s32(sum), vreinterpretq_s8_s32(factor));
    }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(vaddvq_s32(sum)); }
};

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks.int8_in_round = 32 * Int8::kSums;
    table.peaks.int8_rounds = peak_rounds<Int8>;
}

}  // namespace tektra::neoni8mm
