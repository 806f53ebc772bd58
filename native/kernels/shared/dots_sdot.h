// Sums of 16 products with the dot-product instructions of Arm: `sdot` adds four products of bytes
// to an int32; the four activations are a lane of one register of sixteen. Internal linkage: each
// set compiles its own copy.
#pragma once

#include "vectors_neon.h"

namespace tektra {
namespace {

template <class V>
struct SdotNeon : DotsNeon<V> {
    using typename DotsNeon<V>::Int;

    template <class F>
    static inline Int half(const Int* q, const int8_t* x) {
        const int8x16_t a = vld1q_s8(x);
        int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
        low = vdotq_laneq_s32(low, vreinterpretq_s8_u8(q[0].a), a, 0);
        high = vdotq_laneq_s32(high, vreinterpretq_s8_u8(q[0].b), a, 0);
        low = vdotq_laneq_s32(low, vreinterpretq_s8_u8(q[1].a), a, 1);
        high = vdotq_laneq_s32(high, vreinterpretq_s8_u8(q[1].b), a, 1);
        low = vdotq_laneq_s32(low, vreinterpretq_s8_u8(q[2].a), a, 2);
        high = vdotq_laneq_s32(high, vreinterpretq_s8_u8(q[2].b), a, 2);
        low = vdotq_laneq_s32(low, vreinterpretq_s8_u8(q[3].a), a, 3);
        high = vdotq_laneq_s32(high, vreinterpretq_s8_u8(q[3].b), a, 3);
        return {vreinterpretq_u8_s32(low), vreinterpretq_u8_s32(high)};
    }
};

}  // namespace
}  // namespace tektra
