// The search for scales and minima that all quantized formats share, on blocks side by side.
//
// A block is a lane: `x[i][l]` is element i of block l. The loops over lanes are what compilers
// make vectors of; along a block everything is done in order, so that no set of vectors and no
// number of blocks changes a result. All here has internal linkage, as in linear_int8.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../../core/half.h"
#include "tektra/encode_kernels.h"
#include "tektra/quant_blocks.h"

namespace tektra {
namespace {

constexpr int kAbreast = 16;  // blocks that are encoded side by side

using PerBlock = float[kAbreast];
template <int kWidth>
using Elements = float[kWidth][kAbreast];
template <int kWidth>
using Levels = int8_t[kWidth][kAbreast];

// To whole numbers, half to even; |v| < 2^22.
inline float nearest(float v) {
    constexpr float kShift = 0x1.8p23f;
    return (v + kShift) - kShift;
}

inline float clamped(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

inline float inverse(float v) {
    // 1 / v of what is smaller would overflow; such a scale is zero as binary16.
    return std::fabs(v) > 1e-30f ? 1.0f / v : 0.0f;
}

// As it reads from the block.
inline float as_half(float v) {
    return half_to_float(float_to_half(v));
}

// Integers from low to high.
struct Uniform {
    float low, high;
    float operator()(float v) const { return nearest(clamped(v, low, high)); }
};

// How an element's error weighs where there is no importance matrix: its square, its magnitude plus
// the root mean square of its group, or its magnitude.
enum class Weighting { kSquare, kRmsPlusMagnitude, kMagnitude };

template <int kWidth>
struct Blocks {
    alignas(64) Elements<kWidth> x;
    alignas(64) Elements<kWidth> w;
    EncodeResult result;  // kDone where all elements can be encoded
};

// Takes `count` blocks from x, the first of which begins at `column` of a row of `width` elements.
// Lanes past the last block are zero.
template <int kWidth, int kGroup>
void take_blocks(const float* x, const float* importance, size_t width, size_t column, size_t count,
                 Weighting weighting, Blocks<kWidth>& b) {
    for (size_t l = 0; l < kAbreast; ++l) {
        if (l < count) {
            for (int i = 0; i < kWidth; ++i) b.x[i][l] = x[l * kWidth + i];
        } else {
            for (int i = 0; i < kWidth; ++i) b.x[i][l] = 0.0f;
        }
    }
    // no scale reaches beyond this, and no square of a square overflows
    constexpr float kMost = 1e9f;
    alignas(64) PerBlock rest = {};
    alignas(64) PerBlock beyond = {};
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            rest[l] += b.x[i][l] * 0.0f;
            beyond[l] += std::fabs(b.x[i][l]) > kMost ? 1.0f : 0.0f;
        }
    }
    b.result = EncodeResult::kDone;
    for (int l = 0; l < kAbreast; ++l) {
        if (beyond[l] != 0.0f) b.result = EncodeResult::kTooLarge;
    }
    for (int l = 0; l < kAbreast; ++l) {
        if (!(rest[l] == 0.0f)) b.result = EncodeResult::kNotFinite;
    }
    if (b.result != EncodeResult::kDone) return;
    if (importance != nullptr) {
        alignas(64) PerBlock mean = {};
        for (int i = 0; i < kWidth; ++i) {
            for (int l = 0; l < kAbreast; ++l) mean[l] += b.x[i][l] * b.x[i][l];
        }
        constexpr float kShare = (kWidth > 32 ? 2.0f : 1.0f) / kWidth;
        for (int l = 0; l < kAbreast; ++l) mean[l] *= kShare;
        for (size_t l = 0; l < kAbreast; ++l) {
            const float* of = importance + (column + (l < count ? l : 0) * kWidth) % width;
            for (int i = 0; i < kWidth; ++i) b.w[i][l] = of[i];
        }
        for (int i = 0; i < kWidth; ++i) {
            for (int l = 0; l < kAbreast; ++l) {
                b.w[i][l] *= std::sqrt(mean[l] + b.x[i][l] * b.x[i][l]);
            }
        }
        return;
    }
    for (int g = 0; g < kWidth; g += kGroup) {
        alignas(64) PerBlock rms = {};
        if (weighting == Weighting::kRmsPlusMagnitude) {
            for (int i = g; i < g + kGroup; ++i) {
                for (int l = 0; l < kAbreast; ++l) rms[l] += b.x[i][l] * b.x[i][l];
            }
            for (int l = 0; l < kAbreast; ++l) rms[l] = std::sqrt(rms[l] * (1.0f / kGroup));
        }
        if (weighting == Weighting::kSquare) {
            for (int i = g; i < g + kGroup; ++i) {
                for (int l = 0; l < kAbreast; ++l) b.w[i][l] = b.x[i][l] * b.x[i][l];
            }
        } else {
            for (int i = g; i < g + kGroup; ++i) {
                for (int l = 0; l < kAbreast; ++l) b.w[i][l] = rms[l] + std::fabs(b.x[i][l]);
            }
        }
    }
}

// The element of the largest magnitude, with its sign.
template <int kWidth>
void largest(const Elements<kWidth>& x, PerBlock& out) {
    for (int l = 0; l < kAbreast; ++l) out[l] = 0.0f;
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            out[l] = std::fabs(x[i][l]) > std::fabs(out[l]) ? x[i][l] : out[l];
        }
    }
}

// One candidate: levels at the inverse scale `inv`, and the scale that is best for them, kept where
// it leaves less error than what was kept before.
template <int kWidth, class Level>
void try_scale(const Elements<kWidth>& x, const Elements<kWidth>& w, const Level& level,
               const PerBlock& inv, PerBlock& best, PerBlock& d) {
    alignas(64) PerBlock xq = {};
    alignas(64) PerBlock qq = {};
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            const float q = level(x[i][l] * inv[l]);
            const float wq = w[i][l] * q;
            xq[l] += wq * x[i][l];
            qq[l] += wq * q;
        }
    }
    for (int l = 0; l < kAbreast; ++l) {
        const float scale = qq[l] > 0.0f ? xq[l] / qq[l] : 0.0f;
        const float gain = scale * xq[l];  // by how much the error is less than without levels
        const bool better = gain > best[l];
        best[l] = better ? gain : best[l];
        d[l] = better ? scale : d[l];
    }
}

// value = d * level: finds d. `reach` are the levels that the element of the largest magnitude is
// taken to, one after another; then the best is refined.
template <int kWidth, class Level>
void search_scale(const Elements<kWidth>& x, const Elements<kWidth>& w, const Level& level,
                  float first, float step, int tries, PerBlock& d) {
    alignas(64) PerBlock top;
    alignas(64) PerBlock inv;
    alignas(64) PerBlock best = {};
    largest<kWidth>(x, top);
    for (int l = 0; l < kAbreast; ++l) {
        top[l] = inverse(top[l]);
        d[l] = 0.0f;
    }
    for (int t = 0; t < tries; ++t) {
        const float reach = first + step * static_cast<float>(t);
        for (int l = 0; l < kAbreast; ++l) inv[l] = reach * top[l];
        try_scale<kWidth>(x, w, level, inv, best, d);
    }
    for (int t = 0; t < 2; ++t) {
        for (int l = 0; l < kAbreast; ++l) inv[l] = inverse(d[l]);
        try_scale<kWidth>(x, w, level, inv, best, d);
    }
}

// One candidate: levels 0 to top at the inverse scale `inv` from `low` on, and scale and minimum
// that are best for them. With `below`, the minimum is 0 at most.
template <int kWidth>
void try_range(const Elements<kWidth>& x, const Elements<kWidth>& w, float top, bool below,
               const PerBlock& inv, const PerBlock& low, const PerBlock& ww, const PerBlock& xw,
               PerBlock& best, PerBlock& d, PerBlock& m) {
    alignas(64) PerBlock q1 = {};
    alignas(64) PerBlock q2 = {};
    alignas(64) PerBlock qx = {};
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            const float q = nearest(clamped((x[i][l] - low[l]) * inv[l], 0.0f, top));
            const float wq = w[i][l] * q;
            q1[l] += wq;
            q2[l] += wq * q;
            qx[l] += wq * x[i][l];
        }
    }
    for (int l = 0; l < kAbreast; ++l) {
        const float det = ww[l] * q2[l] - q1[l] * q1[l];
        float scale = (ww[l] * qx[l] - xw[l] * q1[l]) / det;
        float min = (q2[l] * xw[l] - q1[l] * qx[l]) / det;
        const float alone = q2[l] > 0.0f ? qx[l] / q2[l] : 0.0f;
        const bool zero = below && !(det > 0.0f && min <= 0.0f);
        scale = zero ? alone : scale;
        min = zero ? 0.0f : min;
        const float gain = scale * (2.0f * qx[l] - scale * q2[l] - 2.0f * min * q1[l]) +
                           min * (2.0f * xw[l] - min * ww[l]);
        const bool better = (zero || det > 0.0f) && gain > best[l];
        best[l] = better ? gain : best[l];
        d[l] = better ? scale : d[l];
        m[l] = better ? min : m[l];
    }
}

// value = d * level + m: finds d and m.
template <int kWidth>
void search_range(const Elements<kWidth>& x, const Elements<kWidth>& w, float top, bool below,
                  float first, float step, int tries, PerBlock& d, PerBlock& m) {
    alignas(64) PerBlock low;
    alignas(64) PerBlock high;
    alignas(64) PerBlock inv;
    alignas(64) PerBlock from;
    alignas(64) PerBlock ww = {};
    alignas(64) PerBlock xw = {};
    alignas(64) PerBlock best;
    for (int l = 0; l < kAbreast; ++l) low[l] = high[l] = x[0][l];
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            low[l] = x[i][l] < low[l] ? x[i][l] : low[l];
            high[l] = x[i][l] > high[l] ? x[i][l] : high[l];
            ww[l] += w[i][l];
            xw[l] += w[i][l] * x[i][l];
        }
    }
    for (int l = 0; l < kAbreast; ++l) {
        low[l] = below && low[l] > 0.0f ? 0.0f : low[l];
        // where all elements are the same, the minimum says it all
        m[l] = low[l];
        d[l] = 0.0f;
        best[l] = m[l] * (2.0f * xw[l] - m[l] * ww[l]);
        high[l] = inverse(high[l] - low[l]);
    }
    for (int t = 0; t < tries; ++t) {
        const float reach = first + step * static_cast<float>(t);
        for (int l = 0; l < kAbreast; ++l) inv[l] = reach * high[l];
        try_range<kWidth>(x, w, top, below, inv, low, ww, xw, best, d, m);
    }
    for (int t = 0; t < 2; ++t) {
        for (int l = 0; l < kAbreast; ++l) {
            inv[l] = inverse(d[l]);
            from[l] = m[l];
        }
        try_range<kWidth>(x, w, top, below, inv, from, ww, xw, best, d, m);
    }
}

// The levels of value = d * level.
template <int kWidth, class Level>
void levels_at(const Elements<kWidth>& x, const Level& level, const PerBlock& d,
               Levels<kWidth>& q) {
    alignas(64) PerBlock inv;
    for (int l = 0; l < kAbreast; ++l) inv[l] = inverse(d[l]);
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            q[i][l] = static_cast<int8_t>(static_cast<int32_t>(level(x[i][l] * inv[l])));
        }
    }
}

// The levels of value = d * level + m.
template <int kWidth>
void levels_from(const Elements<kWidth>& x, float top, const PerBlock& d, const PerBlock& m,
                 Levels<kWidth>& q) {
    alignas(64) PerBlock inv;
    for (int l = 0; l < kAbreast; ++l) inv[l] = inverse(d[l]);
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) {
            const float v = nearest(clamped((x[i][l] - m[l]) * inv[l], 0.0f, top));
            q[i][l] = static_cast<int8_t>(static_cast<int32_t>(v));
        }
    }
}

inline bool is_finite_half(half_t h) {
    return (h & 0x7c00u) != 0x7c00u;
}

// Calls encode(blocks, count, out) for up to kAbreast blocks at a time. `encode` says whether all
// scales fit.
template <int kWidth, int kGroup, class Block, class Encode>
EncodeResult each_batch(const float* x, const float* importance, size_t width, size_t num_blocks,
                        uint8_t* out, Weighting weighting, const Encode& encode) {
    Blocks<kWidth> blocks;
    for (size_t first = 0; first < num_blocks; first += kAbreast) {
        const size_t count = num_blocks - first < kAbreast ? num_blocks - first : kAbreast;
        take_blocks<kWidth, kGroup>(x + first * kWidth, importance, width, first * kWidth % width,
                                    count, weighting, blocks);
        if (blocks.result != EncodeResult::kDone) return blocks.result;
        if (!encode(blocks, count, reinterpret_cast<Block*>(out) + first)) {
            return EncodeResult::kTooLarge;
        }
    }
    return EncodeResult::kDone;
}

}  // namespace
}  // namespace tektra
