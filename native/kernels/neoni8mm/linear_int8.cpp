// Quantized linear layers with the matrix products of Arm: `smmla` multiplies eight elements of two
// matrix rows and of two activation rows, twice the products of `sdot`. A row that is left alone
// takes `sdot`; sums are integers, so both give the same.
#include "../shared/linear_int8.h"

#include "../shared/dots_sdot.h"
#include "tables.h"

namespace tektra::neoni8mm {
namespace {

struct Vectors : SdotNeon<Vectors> {
    // [half][8 elements][matrix rows 0 and 1, 2 and 3, 4 and 5, 6 and 7], elements of a row in
    // order
    struct Pairs {
        int8x16_t rows[2][2][4];
    };

    // Neighbouring registers hold neighbouring elements of four rows.
    static inline Pairs pair_up(const Int* q) {
        Pairs pairs;
        for (int i = 0; i < 4; ++i) {
            const uint32x4_t a = vreinterpretq_u32_u8(q[2 * i].a);
            const uint32x4_t b = vreinterpretq_u32_u8(q[2 * i].b);
            const uint32x4_t next_a = vreinterpretq_u32_u8(q[2 * i + 1].a);
            const uint32x4_t next_b = vreinterpretq_u32_u8(q[2 * i + 1].b);
            int8x16_t* rows = pairs.rows[i / 2][i % 2];
            rows[0] = vreinterpretq_s8_u32(vzip1q_u32(a, next_a));
            rows[1] = vreinterpretq_s8_u32(vzip2q_u32(a, next_a));
            rows[2] = vreinterpretq_s8_u32(vzip1q_u32(b, next_b));
            rows[3] = vreinterpretq_s8_u32(vzip2q_u32(b, next_b));
        }
        return pairs;
    }

    // Factor times the sum of 16 products: of two matrix rows each with x and with y, in turns.
    static inline void half_of_two(const Pairs& pairs, const ActivationBlock& x,
                                   const ActivationBlock& y, int h, int32x4_t* sums) {
        const int64x2_t from_x = vreinterpretq_s64_s8(vld1q_s8(x.q + 16 * h));
        const int64x2_t from_y = vreinterpretq_s64_s8(vld1q_s8(y.q + 16 * h));
        const int8x16_t first = vreinterpretq_s8_s64(vzip1q_s64(from_x, from_y));
        const int8x16_t second = vreinterpretq_s8_s64(vzip2q_s64(from_x, from_y));
        const int32x2_t factors = {x.factor[h], y.factor[h]};
        for (int i = 0; i < 4; ++i) {
            int32x4_t sum = vmmlaq_s32(vdupq_n_s32(0), pairs.rows[h][0][i], first);
            sum = vmmlaq_s32(sum, pairs.rows[h][1][i], second);
            sums[i] = vmulq_s32(sum, vcombine_s32(factors, factors));
        }
    }

    static inline void part(const float32x4_t* sums, Float* dots) {
        dots[0] = {vuzp1q_f32(sums[0], sums[1]), vuzp1q_f32(sums[2], sums[3])};
        dots[1] = {vuzp2q_f32(sums[0], sums[1]), vuzp2q_f32(sums[2], sums[3])};
    }

    template <class F>
    static inline void dots32(const Pairs& pairs, const ActivationBlock& x,
                              const ActivationBlock& y, Float* dots) {
        int32x4_t low[4], high[4];
        float32x4_t sums[4];
        half_of_two(pairs, x, y, 0, low);
        half_of_two(pairs, x, y, 1, high);
        for (int i = 0; i < 4; ++i) {
            sums[i] = F::kHalvesFit ? vcvtq_f32_s32(vaddq_s32(low[i], high[i]))
                                    : vaddq_f32(vcvtq_f32_s32(low[i]), vcvtq_f32_s32(high[i]));
        }
        part(sums, dots);
    }

    template <class F>
    static inline void dots16(const Pairs& pairs, const ActivationBlock& x,
                              const ActivationBlock& y, int h, Float* dots) {
        int32x4_t products[4];
        float32x4_t sums[4];
        half_of_two(pairs, x, y, h, products);
        for (int i = 0; i < 4; ++i) sums[i] = vcvtq_f32_s32(products[i]);
        part(sums, dots);
        if constexpr (F::kPart == Part::kCentre) {
            dots[0] = add(dots[0], splat(x.centre[h]));
            dots[1] = add(dots[1], splat(y.centre[h]));
        }
    }
};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::neoni8mm
