// Four-bit floats with scales of eight bits, and types of two and three levels.
#pragma once

#include "formats.h"

namespace tektra::scalar {
namespace {

// Half of an unsigned E4M3 scale, which binary16 has exactly. 127 is 0 and bit 7 nothing, as in
// ggml.
inline half_t half_of_ue4m3(uint8_t bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    if (bits == 127) return 0;
    if (exponent == 0) return float_to_half(static_cast<float>(mantissa) * 0x1p-10f);
    return static_cast<half_t>((exponent + 7) << 10 | mantissa << 7);
}

template <int L>
struct MXFP4 {
    using Source = BlockMXFP4;
    using Packed = PackedMXFP4<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) { return s.q[e % 16] >> (e < 16 ? 0 : 4) & 15; }
    static void scales(const Source& s, size_t lane, Packed& p) { p.e[lane] = s.e; }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int level = kLevelsFP4.at[get(p.q, e, lane)] - kLevelsFP4.offset;
        return half_of_e8m0(p.e[lane]) * static_cast<float>(level);
    }
};

template <int L>
struct NVFP4 {
    using Source = BlockNVFP4;
    using Packed = PackedNVFP4<L>;
    static constexpr size_t kWidth = 64;
    static int quant(const Source& s, size_t e) {
        return s.q[e / 16][e % 8] >> (e % 16 < 8 ? 0 : 4) & 15;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        for (size_t i = 0; i < 4; ++i) p.scale[i][lane] = half_of_ue4m3(s.scales[i]);
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int level = kLevelsFP4.at[get(p.q[e / kSub], e % kSub, lane)] - kLevelsFP4.offset;
        return half_to_float(p.scale[e / 16][lane]) * static_cast<float>(level);
    }
};

template <class SourceBlock, int L, int width>
struct TwoBits {
    using Source = SourceBlock;
    using Packed = PackedTwoBits<L, width>;
    static constexpr size_t kWidth = width;
    static void scales(const Source& s, size_t lane, Packed& p) { p.d[lane] = s.d; }
    // the remainder keeps GCC from merging these, and then from seeing a block of another width
    static void put(const Quants<L>& q, size_t sub, Packed& p) {
        put_all(q, p.q[sub % (kWidth / kSub)]);
    }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int level = get(p.q[e % kWidth / kSub], e % kSub, lane) - 1;
        return half_to_float(p.d[lane]) * static_cast<float>(level);
    }
};

template <int L>
struct TQ1_0 : TwoBits<BlockTQ1_0, L, kSuperWidth> {
    static int quant(const BlockTQ1_0& s, size_t e) {
        constexpr uint8_t kPowers[] = {1, 3, 9, 27, 81};
        const uint8_t byte = e < 160   ? s.q5[e % 32]
                             : e < 240 ? s.q5b[(e - 160) % 16]
                                       : s.q4[(e - 240) % 4];
        const size_t digit = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
        return static_cast<uint8_t>(byte * kPowers[digit]) * 3 >> 8;
    }
};

template <int L>
struct TQ2_0 : TwoBits<BlockTQ2_0, L, kSuperWidth> {
    static int quant(const BlockTQ2_0& s, size_t e) {
        return s.q[32 * (e / 128) + e % 32] >> 2 * (e % 128 / 32) & 3;
    }
};

template <int L>
struct Q1_0 : TwoBits<BlockQ1_0, L, 128> {
    static int quant(const BlockQ1_0& s, size_t e) { return 2 * (s.q[e / 8] >> e % 8 & 1); }
};

template <int L>
struct Q2_0 : TwoBits<BlockQ2_0, L, 64> {
    static int quant(const BlockQ2_0& s, size_t e) { return s.q[e / 4] >> 2 * (e % 4) & 3; }
};

}  // namespace
}  // namespace tektra::scalar
