// The K types: super-blocks of 256 elements whose parts have integer scales.
#pragma once

#include "formats.h"

namespace tektra::scalar {
namespace {

// Six-bit scale and min of sub-block s (0..7) of Q4_K and Q5_K.
inline void scale_min_k4(const uint8_t* packed, size_t s, uint8_t& scale, uint8_t& min) {
    if (s < 4) {
        scale = packed[s] & 63;
        min = packed[s + 4] & 63;
    } else {
        scale = static_cast<uint8_t>((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
        min = static_cast<uint8_t>((packed[s + 4] >> 4) | (packed[s] >> 6) << 4);
    }
}

inline int two_bits(const uint8_t* q, size_t e) {
    return q[32 * (e / 128) + e % 32] >> 2 * (e % 128 / 32) & 3;
}

template <int L>
struct Q2_K {
    using Source = BlockQ2_K;
    using Packed = PackedQ2_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) { return two_bits(s.q, e); }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 16; ++i) {
            p.scale[i][lane] = s.scales[i] & 15;
            p.min[i][lane] = s.scales[i] >> 4;
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[e / 16][lane]);
        return d * static_cast<float>(get(p.q[e / kSub], e % kSub, lane)) - m;
    }
};

template <int L>
struct Q3_K {
    using Source = BlockQ3_K;
    using Packed = PackedQ3_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        return two_bits(s.q, e) | (s.high[e % 32] >> e / 32 & 1) << 2;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) {
            const int low = i < 8 ? s.scales[i] & 15 : s.scales[i - 8] >> 4;
            const int high = s.scales[8 + i % 4] >> 2 * (i / 4) & 3;
            p.scale[i][lane] = static_cast<int8_t>((low | high << 4) - 32);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        return d * static_cast<float>(q - 4);
    }
};

inline int k_nibble(const uint8_t* q, size_t e) {
    return q[32 * (e / 64) + e % 32] >> (e % 64 < 32 ? 0 : 4) & 15;
}

template <int L>
struct Q4_K {
    using Source = BlockQ4_K;
    using Packed = PackedQ4_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) { return k_nibble(s.q, e); }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 8; ++i) {
            scale_min_k4(s.scales, i, p.scale[i][lane], p.min[i][lane]);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[sub][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[sub][lane]);
        return d * static_cast<float>(get(p.q[sub], e % kSub, lane)) - m;
    }
};

template <int L>
struct Q5_K {
    using Source = BlockQ5_K;
    using Packed = PackedQ5_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        return k_nibble(s.q, e) | (s.high[e % 32] >> e / 32 & 1) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 8; ++i) {
            scale_min_k4(s.scales, i, p.scale[i][lane], p.min[i][lane]);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[sub][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[sub][lane]);
        return d * static_cast<float>(q) - m;
    }
};

template <int L>
struct Q6_K {
    using Source = BlockQ6_K;
    using Packed = PackedQ6_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        const size_t half = e / 128, quarter = e % 128 / 32, l = e % 32;
        const int low = s.low[64 * half + 32 * (quarter % 2) + l] >> (quarter < 2 ? 0 : 4) & 15;
        return low | (s.high[32 * half + l] >> 2 * quarter & 3) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) p.scale[i][lane] = s.scales[i];
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        return d * static_cast<float>(q - 32);
    }
};

}  // namespace
}  // namespace tektra::scalar
