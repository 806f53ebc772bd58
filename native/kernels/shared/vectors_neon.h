// Vectors of eight floats on 64-bit Arm (two registers each), as linear_int8.h and linear_float.h
// want them, but for the dot product of bytes: that is where the sets differ. Internal linkage:
// each set compiles its own copy.
#pragma once

#include <arm_neon.h>

#include "linear_int8.h"

namespace tektra {
namespace {

struct VectorsNeon {
    static constexpr int kLanes = 8;
    static constexpr bool kSignedProducts = true;
    struct Int {
        uint8x16_t a, b;
    };
    struct Float {
        float32x4_t a, b;
    };

    static inline Int load(const void* p) {
        const auto* bytes = static_cast<const uint8_t*>(p);
        return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
    }
    static inline Int splat8(int byte) {
        const uint8x16_t v = vdupq_n_u8(static_cast<uint8_t>(byte));
        return {v, v};
    }
    static inline Int and_(Int x, Int y) { return {vandq_u8(x.a, y.a), vandq_u8(x.b, y.b)}; }
    static inline Int or_and(Int x, Int y, Int z) {
        return {vorrq_u8(x.a, vandq_u8(y.a, z.a)), vorrq_u8(x.b, vandq_u8(y.b, z.b))};
    }
    static inline Int xor_(Int x, Int y) { return {veorq_u8(x.a, y.a), veorq_u8(x.b, y.b)}; }
    // bits that move into the neighbouring byte of a 16-bit shift are masked off by every caller
    template <int n>
    static inline Int right(Int v) {
        return {vshrq_n_u8(v.a, n), vshrq_n_u8(v.b, n)};
    }
    static inline Int table(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p)}; }
    static inline Int look_up(Int table, Int v) {
        return {vqtbl1q_u8(table.a, v.a), vqtbl1q_u8(table.b, v.b)};
    }

    static inline Float e8m0_halves(const uint8_t* p) {
        const uint16x8_t wide = vmovl_u8(vqsub_u8(vld1_u8(p), vdup_n_u8(1)));
        return {vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(wide)), 23)),
                vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_high_u16(wide)), 23))};
    }
    static inline Float from_halves(uint16x8_t v) {
        const float16x8_t h = vreinterpretq_f16_u16(v);
        return {vcvt_f32_f16(vget_low_f16(h)), vcvt_f32_f16(vget_high_f16(h))};
    }
    static inline Float halves(const half_t* p) { return from_halves(vld1q_u16(p)); }
    static inline Float widen(const uint8_t* p) {
        const uint16x8_t wide = vmovl_u8(vld1_u8(p));
        return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))),
                vcvtq_f32_u32(vmovl_u16(vget_high_u16(wide)))};
    }
    static inline Float widen(const int8_t* p) {
        const int16x8_t wide = vmovl_s8(vld1_s8(p));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)))};
    }
    static inline Float to_float(Int v) {
        return {vcvtq_f32_s32(vreinterpretq_s32_u8(v.a)), vcvtq_f32_s32(vreinterpretq_s32_u8(v.b))};
    }

    // Integers: factors times the sums of the two halves. Of 16 products with 8-bit weights only
    // one half fits.
    static inline Int times(Int v, int16_t factor) {
        return {vreinterpretq_u8_s32(vmulq_n_s32(vreinterpretq_s32_u8(v.a), factor)),
                vreinterpretq_u8_s32(vmulq_n_s32(vreinterpretq_s32_u8(v.b), factor))};
    }
    static inline Int add32(Int x, Int y) {
        return {
            vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(x.a), vreinterpretq_s32_u8(y.a))),
            vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(x.b), vreinterpretq_s32_u8(y.b)))};
    }

    static inline Float splat(float f) { return {vdupq_n_f32(f), vdupq_n_f32(f)}; }
    static inline Float zero() { return splat(0.0f); }
    static inline Float mul(Float x, Float y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
    static inline Float add(Float x, Float y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
    static inline Float fmadd(Float x, Float y, Float z) {
        return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)};
    }
    static inline Float load_floats(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    static inline void store(float* p, Float v) {
        vst1q_f32(p, v.a);
        vst1q_f32(p + 4, v.b);
    }
};

// What linear_int8.h wants of a set, from its V::half<F>(q, x): int32 sums of 16 products.
template <class V>
struct DotsNeon : VectorsNeon {
    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = times(V::template half<F>(q, a.q), a.factor[0]);
        const Int high = times(V::template half<F>(q + 4, a.q + 16), a.factor[1]);
        if constexpr (!F::kHalvesFit) return add(to_float(low), to_float(high));
        return to_float(add32(low, high));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = to_float(times(V::template half<F>(q, a.q + 16 * h), a.factor[h]));
        return F::kPart == Part::kCentre ? add(sum, splat(a.centre[h])) : sum;
    }
};

}  // namespace
}  // namespace tektra
