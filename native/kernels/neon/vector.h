// Small vector helpers. Everything here has internal linkage: no inline function may be shared
// with code that is compiled for another instruction set.
#pragma once

#include <arm_neon.h>

namespace tektra::neon {
namespace {

// exp(x) to about 1 ulp: x = n ln 2 + r, a polynomial in r, scaled by 2^n; 0 below -87.3, finite
// above 88.
[[maybe_unused]] inline float32x4_t exp(float32x4_t x) {
    const uint32x4_t underflow = vcltq_f32(x, vdupq_n_f32(-87.3f));
    x = vminq_f32(x, vdupq_n_f32(88.0f));
    x = vmaxq_f32(x, vdupq_n_f32(-87.3f));
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504088896341f));
    // ln 2 in two parts, so that r keeps its low bits
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693145751953125f));
    r = vfmsq_f32(r, n, vdupq_n_f32(1.42860682030941723e-6f));
    float32x4_t p = vdupq_n_f32(1.0f / 5040.0f);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    const float32x4_t value = vmulq_f32(p, vreinterpretq_f32_s32(power));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), underflow));
}

// tanh(x) = 1 - 2 / (exp(2 x) + 1); for small x, where that cancels, its series.
[[maybe_unused]] inline float32x4_t tanh(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t large =
        vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(exp(vaddq_f32(x, x)), one)));
    const float32x4_t square = vmulq_f32(x, x);
    float32x4_t p = vdupq_n_f32(-17.0f / 315.0f);
    p = vfmaq_f32(vdupq_n_f32(2.0f / 15.0f), p, square);
    p = vfmaq_f32(vdupq_n_f32(-1.0f / 3.0f), p, square);
    const float32x4_t small = vfmaq_f32(x, vmulq_f32(p, square), x);
    return vbslq_f32(vcltq_f32(vabsq_f32(x), vdupq_n_f32(0.15f)), small, large);
}

}  // namespace
}  // namespace tektra::neon
