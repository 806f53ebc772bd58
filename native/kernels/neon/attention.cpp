// Attention with vectors of four floats.
#include "../shared/attention_float.h"
#include "../shared/attention_int8.h"
#include "tables.h"
#include "vector.h"

namespace tektra::neon {
namespace {

struct Vectors {
    static constexpr size_t kLanes = 4;
    static constexpr int kTile = 2;
    static constexpr int kWide = 8;
    using Float = float32x4_t;

    static inline Float load(const float* p) { return vld1q_f32(p); }
    static inline Float load(const half_t* p) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
    }
    static inline float single(const float* p) { return *p; }
    static inline float single(const half_t* p) {
        return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(*p))), 0);
    }
    static inline Float splat(float f) { return vdupq_n_f32(f); }
    static inline Float zero() { return vdupq_n_f32(0.0f); }
    static inline Float mul(Float a, Float b) { return vmulq_f32(a, b); }
    static inline Float add(Float a, Float b) { return vaddq_f32(a, b); }
    static inline Float sub(Float a, Float b) { return vsubq_f32(a, b); }
    static inline Float max(Float a, Float b) { return vmaxq_f32(a, b); }
    static inline Float fmadd(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
    static inline void store(float* p, Float v) { vst1q_f32(p, v); }
    static inline Float power(Float v) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(v), 23));
    }
    static inline Float soft_cap(Float v, float cap) {
        return vmulq_n_f32(tanh(vdivq_f32(v, vdupq_n_f32(cap))), cap);
    }
    static inline Float only(Float v, int at, int first, int last, Float other) {
        const int32x4_t lanes = vaddq_s32(int32x4_t{0, 1, 2, 3}, vdupq_n_s32(at));
        const uint32x4_t seen =
            vandq_u32(vcgeq_s32(lanes, vdupq_n_s32(first)), vcltq_s32(lanes, vdupq_n_s32(last)));
        return vbslq_f32(seen, v, other);
    }
    static inline float sum_lanes(Float v) { return vaddvq_f32(v); }
    static inline float max_lanes(Float v) { return vmaxnmvq_f32(v); }

    // pairs of int16 as they lie, which dot() reads as such
    using Int = int32x4_t;
    using Sum = int32x4_t;
    static inline Int pairs(const int16_t* p) { return vreinterpretq_s32_s16(vld1q_s16(p)); }
    static inline Int pairs(const int8_t* p) { return vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p))); }
    static inline void store_pairs(int16_t* p, Int v) { vst1q_s16(p, vreinterpretq_s16_s32(v)); }
    static inline Int splat_pair(const float* p) { return vreinterpretq_s32_f32(vdupq_n_f32(*p)); }
    static inline Int dot(Int a, Int b, Int c) {
        const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
        return vaddq_s32(
            c, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
    }
    static inline Int none() { return vdupq_n_s32(0); }
    static inline Float to_float(Int v) { return vcvtq_f32_s32(v); }
    static inline void store_codes(int16_t* p, Float v) {
        vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(v)));
    }
    static inline void fetch(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }
};

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kF16)] = FloatAttention<Vectors>::run<half_t>;
    table.attend[static_cast<size_t>(KvType::kF32)] = FloatAttention<Vectors>::run<float>;
    table.attend[static_cast<size_t>(KvType::kInt8)] = Int8Attention<Vectors>::run;
}

}  // namespace tektra::neon
