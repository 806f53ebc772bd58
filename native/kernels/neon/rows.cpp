// Row-wise kernels with NEON: what a compiler does not vectorize by itself. The rest stays scalar,
// which on this architecture is NEON as well.
#include <cmath>
#include <cstring>
#include <limits>

#include "../shared/activations.h"
#include "../shared/quantized_row.h"
#include "tables.h"
#include "vector.h"

namespace tektra::neon {
namespace {

// Largest magnitude of 16 elements as bits, which order like the floats, and NaN above all.
inline uint32_t largest_bits(const float* x) {
    uint32x4_t largest = vdupq_n_u32(0);
    for (int i = 0; i < 4; ++i) {
        largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + 4 * i))));
    }
    return vmaxvq_u32(largest);
}

void quantize(const float* x, size_t n, uint8_t* out) {
    const size_t num_blocks = n / kActivationBlock;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i += 16) {
        const uint32_t largest = largest_bits(x + i);
        bits = largest > bits ? largest : bits;
    }
    const float top = begin_row(bits, num_blocks, out);
    if (top == 0.0f) return;
    for (size_t b = 0; b < num_blocks; ++b) {
        ActivationBlock a;
        float factors[2], sums[2];
        for (int h = 0; h < 2; ++h) {
            const float* from = x + kActivationBlock * b + 16 * h;
            const uint32_t largest = largest_bits(from);
            float peak;
            std::memcpy(&peak, &largest, sizeof peak);
            const float factor = std::fmin(std::ceil(peak * (kMaxFactor / top)), float{kMaxFactor});
            const float inverse = factor > 0.0f ? 127.0f * kMaxFactor / top / factor : 0.0f;
            int32x4_t q[4];
            for (int i = 0; i < 4; ++i) {
                q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from + 4 * i), inverse));
            }
            const int16x8_t low = vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]));
            const int16x8_t high = vcombine_s16(vqmovn_s32(q[2]), vqmovn_s32(q[3]));
            const int8x16_t bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
            vst1q_s8(a.q + 16 * h, bytes);
            factors[h] = factor;
            sums[h] = factor * static_cast<float>(vaddlvq_s8(bytes));
        }
        finish_block(factors, sums, a);
        std::memcpy(out + b * sizeof a, &a, sizeof a);
    }
}

inline float32x4_t sigmoid(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    return vdivq_f32(one, vaddq_f32(one, exp(vnegq_f32(x))));
}

template <int kFunction>
inline float32x4_t apply(float32x4_t x) {
    if constexpr (kFunction == kSilu) return vmulq_f32(x, sigmoid(x));
    if constexpr (kFunction == kSigmoid) return sigmoid(x);
    if constexpr (kFunction == kTanh) return tanh(x);
    if constexpr (kFunction == kRelu) return vmaxq_f32(x, vdupq_n_f32(0.0f));
    if constexpr (kFunction == kGelu) {
        const float32x4_t size = vabsq_f32(x), one = vdupq_n_f32(1.0f);
        const float32x4_t z = vmulq_n_f32(size, 0.70710678118654752440f);
        const float32x4_t t = vdivq_f32(one, vfmaq_f32(one, vdupq_n_f32(kErfcSlope), z));
        float32x4_t p = vdupq_n_f32(kErfc[4]);
        for (int i = 3; i >= 0; --i) p = vfmaq_f32(vdupq_n_f32(kErfc[i]), p, t);
        const float32x4_t tail = vmulq_f32(vmulq_f32(p, t), exp(vnegq_f32(vmulq_f32(z, z))));
        const float32x4_t half = vmulq_n_f32(size, 0.5f);
        return vfmsq_f32(vmaxq_f32(x, vdupq_n_f32(0.0f)), half, tail);
    }
    if constexpr (kFunction == kGeluTanh) {
        const float32x4_t cube = vmulq_f32(vmulq_f32(x, x), x);
        const float32x4_t inner =
            vmulq_n_f32(vfmaq_f32(x, vdupq_n_f32(0.044715f), cube), 0.79788456080286535588f);
        const float32x4_t half = vmulq_n_f32(x, 0.5f);
        return vfmaq_f32(half, half, tanh(inner));
    }
}

// A row may end in the middle of a vector: the rest goes through a padded copy, so that every
// element is computed by the same instructions.
template <int kFunction>
void gated_row(const float* gate, const float* up, size_t n, float* out) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = apply<kFunction>(vld1q_f32(gate + i));
        if (up != nullptr) v = vmulq_f32(v, vld1q_f32(up + i));
        vst1q_f32(out + i, v);
    }
    if (i < n) {
        float rest[4] = {};
        std::memcpy(rest, gate + i, (n - i) * sizeof(float));
        vst1q_f32(rest, apply<kFunction>(vld1q_f32(rest)));
        for (size_t j = 0; i + j < n; ++j)
            out[i + j] = up != nullptr ? rest[j] * up[i + j] : rest[j];
    }
}

struct Loops {
    template <int kFunction>
    static void gated(const float* gate, const float* up, size_t n, float* out) {
        gated_row<kFunction>(gate, up, n, out);
    }
};

void to_half(const float* x, size_t n, half_t* out) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    }
    for (; i < n; ++i) {
        vst1_lane_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x[i]))), 0);
    }
}

}  // namespace

void fill_rows(KernelTable& table) {
    RowKernels& rows = table.rows;
    rows.quantize = quantize;
    fill_activations<Loops>(rows);
    rows.to_half = to_half;
}

}  // namespace tektra::neon
