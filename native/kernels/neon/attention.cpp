// Online softmax over one block of the cache with NEON: keys and values become floats once, then
// serve all queries that see the block; scores of 32 positions are computed side by side.
#include <cmath>
#include <limits>

#include "tables.h"
#include "vector.h"

namespace tektra::neon {
namespace {

constexpr int kVectors = kKvBlock / 4;  // of scores
constexpr float kInfinity = std::numeric_limits<float>::infinity();

void to_floats(const half_t* from, size_t n, float* to) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
    }
    for (; i < n; ++i) {
        to[i] = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(from[i]))), 0);
    }
}

// The weighted values of kCount neighbouring vectors from element d on; positions in order.
template <int kCount>
inline void add_vectors(const float* weights, int first, int last, const float* values,
                        size_t value_dim, float rescale, float* out) {
    float32x4_t sums[kCount];
    for (int v = 0; v < kCount; ++v) sums[v] = vmulq_n_f32(vld1q_f32(out + 4 * v), rescale);
    for (int j = first; j < last; ++j) {
        const float32x4_t w = vdupq_n_f32(weights[j]);
        const float* value = values + static_cast<size_t>(j) * value_dim;
        for (int v = 0; v < kCount; ++v) {
            sums[v] = vfmaq_f32(sums[v], w, vld1q_f32(value + 4 * v));
        }
    }
    for (int v = 0; v < kCount; ++v) vst1q_f32(out + 4 * v, sums[v]);
}

void attend(const AttentionTask& t, size_t i, const float* keys, const float* values) {
    const int first = t.first[i], last = t.last[i];
    float32x4_t scores[kVectors];
    for (auto& s : scores) s = vdupq_n_f32(0.0f);
    for (size_t d = 0; d < t.head_dim; ++d) {
        const float32x4_t q = vdupq_n_f32(t.queries[i][d]);
        const float* key = keys + d * kKvBlock;
        for (int v = 0; v < kVectors; ++v) {
            scores[v] = vfmaq_f32(scores[v], q, vld1q_f32(key + 4 * v));
        }
    }
    const int32x4_t lanes = {0, 1, 2, 3};
    float32x4_t largest = vdupq_n_f32(-kInfinity);
    for (int v = 0; v < kVectors; ++v) {
        float32x4_t s = vmulq_n_f32(scores[v], t.scale);
        if (t.softcap != 0.0f) {
            s = vmulq_n_f32(tanh(vdivq_f32(s, vdupq_n_f32(t.softcap))), t.softcap);
        }
        const int32x4_t at = vaddq_s32(lanes, vdupq_n_s32(4 * v));
        const uint32x4_t seen =
            vandq_u32(vcgeq_s32(at, vdupq_n_s32(first)), vcltq_s32(at, vdupq_n_s32(last)));
        scores[v] = vbslq_f32(seen, s, vdupq_n_f32(-kInfinity));
        largest = vmaxnmq_f32(largest, scores[v]);
    }
    const float maximum = std::fmax(t.maximum[i], vmaxnmvq_f32(largest));
    float weights[kKvBlock];
    float32x4_t total = vdupq_n_f32(0.0f);
    for (int v = 0; v < kVectors; ++v) {
        const float32x4_t w = exp(vsubq_f32(scores[v], vdupq_n_f32(maximum)));
        vst1q_f32(weights + 4 * v, w);
        total = vaddq_f32(total, w);
    }
    // the first block of a query finds -infinity: its empty state is multiplied by zero
    const float rescale = vgetq_lane_f32(exp(vdupq_n_f32(t.maximum[i] - maximum)), 0);
    t.sum[i] = t.sum[i] * rescale + vaddvq_f32(total);
    t.maximum[i] = maximum;

    float* out = t.values_sum + i * t.value_stride;
    size_t d = 0;
    for (; d + 32 <= t.value_dim; d += 32) {
        add_vectors<8>(weights, first, last, values + d, t.value_dim, rescale, out + d);
    }
    for (; d + 4 <= t.value_dim; d += 4) {
        add_vectors<1>(weights, first, last, values + d, t.value_dim, rescale, out + d);
    }
    for (; d < t.value_dim; ++d) {
        float sum = out[d] * rescale;
        for (int j = first; j < last; ++j) {
            sum += weights[j] * values[static_cast<size_t>(j) * t.value_dim + d];
        }
        out[d] = sum;
    }
}

void attend_block(const AttentionTask& t) {
    float* keys = t.scratch;
    float* values = keys + kKvBlock * t.head_dim;
    bool ready = false;
    for (size_t i = 0; i < t.num_queries; ++i) {
        if (t.first[i] >= t.last[i]) continue;
        if (!ready) {
            to_floats(t.keys, kKvBlock * t.head_dim, keys);
            to_floats(t.values, kKvBlock * t.value_dim, values);
            ready = true;
        }
        attend(t, i, keys, values);
    }
}

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend_block = attend_block;
}

}  // namespace tektra::neon
