// Encodes the formats with one scale, and perhaps one minimum, for 32 elements.
#pragma once

#include "encode_search.h"

namespace tektra {
namespace {

// Nibbles: element i in the low half of byte i, element i + 16 in the high half.
inline void put_nibbles(const Levels<32>& q, size_t lane, uint8_t* out) {
    for (int i = 0; i < 16; ++i) {
        out[i] = static_cast<uint8_t>((q[i][lane] & 15) | (q[i + 16][lane] & 15) << 4);
    }
}

inline void put_fifth_bits(const Levels<32>& q, size_t lane, uint8_t* out) {
    for (int byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (int bit = 0; bit < 8; ++bit) bits |= (q[8 * byte + bit][lane] >> 4 & 1) << bit;
        out[byte] = static_cast<uint8_t>(bits);
    }
}

// Q4_0 and Q5_0: levels -kHalf to kHalf - 1, stored with kHalf added.
template <int kHalf, class Block>
EncodeResult encode_centred(const float* x, const float* importance, size_t width,
                            size_t num_blocks, uint8_t* out) {
    return each_batch<32, 32, Block>(x, importance, width, num_blocks, out, Weighting::kSquare,
                                     [](const Blocks<32>& b, size_t count, Block* to) {
                                         constexpr Uniform kLevel{-kHalf, kHalf - 1};
                                         alignas(64) PerBlock d;
                                         alignas(64) Levels<32> q;
                                         search_scale<32>(b.x, b.w, kLevel, -(kHalf + 0.9f), 0.1f,
                                                          19, d);
                                         half_t stored[kAbreast];
                                         for (int l = 0; l < kAbreast; ++l) {
                                             stored[l] = float_to_half(d[l]);
                                             d[l] = half_to_float(stored[l]);
                                         }
                                         levels_at<32>(b.x, kLevel, d, q);
                                         for (int i = 0; i < 32; ++i) {
                                             for (int l = 0; l < kAbreast; ++l)
                                                 q[i][l] = static_cast<int8_t>(q[i][l] + kHalf);
                                         }
                                         for (size_t l = 0; l < count; ++l) {
                                             if (!is_finite_half(stored[l])) return false;
                                             to[l].d = stored[l];
                                             put_nibbles(q, l, to[l].q);
                                             if constexpr (kHalf == 16)
                                                 put_fifth_bits(q, l, to[l].high);
                                         }
                                         return true;
                                     });
}

// Q4_1 and Q5_1: levels 0 to kTop.
template <int kTop, class Block>
EncodeResult encode_ranged(const float* x, const float* importance, size_t width, size_t num_blocks,
                           uint8_t* out) {
    return each_batch<32, 32, Block>(
        x, importance, width, num_blocks, out, Weighting::kRmsPlusMagnitude,
        [](const Blocks<32>& b, size_t count, Block* to) {
            alignas(64) PerBlock d;
            alignas(64) PerBlock m;
            alignas(64) Levels<32> q;
            search_range<32>(b.x, b.w, kTop, false, kTop - 0.9f, 0.1f, 20, d, m);
            half_t scale[kAbreast], min[kAbreast];
            for (int l = 0; l < kAbreast; ++l) {
                scale[l] = float_to_half(d[l]);
                min[l] = float_to_half(m[l]);
                d[l] = half_to_float(scale[l]);
                m[l] = half_to_float(min[l]);
            }
            levels_from<32>(b.x, kTop, d, m, q);
            for (size_t l = 0; l < count; ++l) {
                if (!is_finite_half(scale[l]) || !is_finite_half(min[l])) return false;
                to[l].d = scale[l];
                to[l].m = min[l];
                put_nibbles(q, l, to[l].q);
                if constexpr (kTop == 31) put_fifth_bits(q, l, to[l].high);
            }
            return true;
        });
}

// Q8_0 rounds and searches nothing, as everybody does it: 8 bits leave little to win.
inline EncodeResult encode_q8_0(const float* x, const float*, size_t width, size_t num_blocks,
                                uint8_t* out) {
    return each_batch<32, 32, BlockQ8_0>(
        x, nullptr, width, num_blocks, out, Weighting::kSquare,
        [](const Blocks<32>& b, size_t count, BlockQ8_0* to) {
            alignas(64) PerBlock top;
            alignas(64) PerBlock inv;
            alignas(64) Levels<32> q;
            largest<32>(b.x, top);
            for (int l = 0; l < kAbreast; ++l) {
                top[l] = std::fabs(top[l]) / 127.0f;
                const float divided = 1.0f / top[l];
                inv[l] = divided < 3.0e38f ? divided : 0.0f;
            }
            for (int i = 0; i < 32; ++i) {
                for (int l = 0; l < kAbreast; ++l) {
                    const float v = b.x[i][l] * inv[l];
                    const float whole = static_cast<float>(static_cast<int32_t>(v));
                    // half away from zero
                    const auto rest = static_cast<int32_t>(2.0f * (v - whole));
                    q[i][l] = static_cast<int8_t>(static_cast<int32_t>(whole) + rest);
                }
            }
            for (size_t l = 0; l < count; ++l) {
                to[l].d = float_to_half(top[l]);
                if (!is_finite_half(to[l].d)) return false;
                for (int i = 0; i < 32; ++i) to[l].q[i] = q[i][l];
            }
            return true;
        });
}

}  // namespace
}  // namespace tektra
