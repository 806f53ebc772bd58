// Quantized linear layers with NEON alone: byte products become int16, as many of which are added
// as the range of the format allows before they are widened in pairs.
#include "../shared/linear_int8.h"

#include "../shared/vectors_neon.h"
#include "tables.h"

namespace tektra::neon {
namespace {

struct Vectors : DotsNeon<Vectors> {
    template <class F>
    static inline Int half(const Int* q, const int8_t* x) {
        // sums of two elements each: rows 0 and 1, 2 and 3, 4 and 5, 6 and 7
        int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (int j = 0; j < 4; j += F::kChain) {
            int16x8_t products[4] = {};
            for (int i = j; i < j + F::kChain && i < 4; ++i) {
                int32_t four;
                std::memcpy(&four, x + 4 * i, sizeof four);
                const int8x8_t a = vreinterpret_s8_s32(vdup_n_s32(four));
                const int8x16_t rows[2] = {vreinterpretq_s8_u8(q[i].a),
                                           vreinterpretq_s8_u8(q[i].b)};
                for (int h = 0; h < 2; ++h) {
                    const int8x8_t low = vget_low_s8(rows[h]), high = vget_high_s8(rows[h]);
                    int16x8_t* to = products + 2 * h;
                    to[0] = i == j ? vmull_s8(low, a) : vmlal_s8(to[0], low, a);
                    to[1] = i == j ? vmull_s8(high, a) : vmlal_s8(to[1], high, a);
                }
            }
            for (int h = 0; h < 4; ++h) sums[h] = vpadalq_s16(sums[h], products[h]);
        }
        return {vreinterpretq_u8_s32(vpaddq_s32(sums[0], sums[1])),
                vreinterpretq_u8_s32(vpaddq_s32(sums[2], sums[3]))};
    }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::neon
