// Peak loops with NEON: `smlal` of bytes to int16 (8 multiply-adds), FMA (4).
#include "../shared/peaks.h"

#include <arm_neon.h>

#include "tables.h"

namespace tektra::neon {
namespace {

struct Int8 {
    static constexpr int kSums = 16;
    using Vector = int16x8_t;
    static Vector start(int i) { return vdupq_n_s16(static_cast<int16_t>(257 * (i + 3))); }
    static Vector step(Vector sum, Vector factor) {
        return vmlal_s8(sum, vget_low_s8(vreinterpretq_s8_s16(sum)),
                        vget_low_s8(vreinterpretq_s8_s16(factor)));
    }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(vaddvq_s16(sum)); }
};

struct Floats {
    static constexpr int kSums = 16;
    using Vector = float32x4_t;
    static Vector start(int i) {
        return vdupq_n_f32(i < kSums ? 1.0f + static_cast<float>(i) : 0.5f);
    }
    static Vector step(Vector sum, Vector factor) { return vfmaq_f32(sum, factor, factor); }
    static uint64_t use(Vector sum) { return static_cast<uint64_t>(vgetq_lane_f32(sum, 0)); }
};

uint64_t read(const uint8_t* data, size_t bytes) {
    uint64x2_t sums[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
    for (size_t at = 0; at < bytes; at += 64) {
        for (int i = 0; i < 4; ++i) {
            sums[i] = vaddq_u64(sums[i], vreinterpretq_u64_u8(vld1q_u8(data + at + 16 * i)));
        }
    }
    return vaddvq_u64(vaddq_u64(vaddq_u64(sums[0], sums[1]), vaddq_u64(sums[2], sums[3])));
}

}  // namespace

void fill_peaks(KernelTable& table) {
    table.peaks = {8 * Int8::kSums, 4 * Floats::kSums, peak_rounds<Int8>, peak_rounds<Floats>,
                   read};
}

}  // namespace tektra::neon
