// Encodes the formats whose levels are not evenly spaced, and the ternary ones.
#pragma once

#include <bit>
#include <utility>

#include "encode_k.h"
#include "encode_legacy.h"

namespace tektra {
namespace {

// The nearest of some values in ascending order.
template <int kCount>
struct Codebook {
    int8_t values[kCount];

    float operator()(float v) const {
        return [&]<size_t... k>(std::index_sequence<k...>) {
            float best = values[0];
            ((best = v > 0.5f * static_cast<float>(values[k] + values[k + 1])
                         ? static_cast<float>(values[k + 1])
                         : best),
             ...);
            return best;
        }(std::make_index_sequence<kCount - 1>());
    }
    // Places of values, in 256 bytes by value + 128.
    void places(uint8_t* of) const {
        for (int k = 0; k < kCount; ++k) of[values[k] + 128] = static_cast<uint8_t>(k);
    }
};

constexpr Codebook<16> kNonLinear{
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}};
// E2M1 floats, twice; -0 is never written
constexpr Codebook<15> kMicro{{-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12}};

struct EncodedIQ4_NL {
    half_t d;
    uint8_t q[16];
};
struct EncodedIQ4_XS {
    half_t d;
    uint8_t scales_high[2];
    uint8_t scales_low[4];
    uint8_t q[8][16];
};
struct EncodedMXFP4 {
    uint8_t exponent;
    uint8_t q[16];
};
struct EncodedTQ1_0 {
    uint8_t q[48];
    uint8_t high[4];
    half_t d;
};
struct EncodedTQ2_0 {
    uint8_t q[64];
    half_t d;
};

// Each element's place in the codebook instead of its value.
template <int kWidth>
void to_places(const uint8_t* places, Levels<kWidth>& q) {
    for (int i = 0; i < kWidth; ++i) {
        for (int l = 0; l < kAbreast; ++l) q[i][l] = static_cast<int8_t>(places[q[i][l] + 128]);
    }
}

// Both ends of the codebook may take the largest element: the search begins at one, with the other
// among its steps by their sign.
inline EncodeResult encode_iq4_nl(const float* x, const float* importance, size_t width,
                                  size_t num_blocks, uint8_t* out) {
    uint8_t places[256] = {};
    kNonLinear.places(places);
    return each_batch<32, 32, EncodedIQ4_NL>(
        x, importance, width, num_blocks, out, Weighting::kSquare,
        [&](const Blocks<32>& b, size_t count, EncodedIQ4_NL* to) {
            alignas(64) PerBlock d;
            alignas(64) Levels<32> q;
            search_scale<32>(b.x, b.w, kNonLinear, -134.0f, 2.0f, 16, d);
            half_t stored[kAbreast];
            for (int l = 0; l < kAbreast; ++l) {
                stored[l] = float_to_half(d[l]);
                d[l] = half_to_float(stored[l]);
            }
            levels_at<32>(b.x, kNonLinear, d, q);
            to_places<32>(places, q);
            for (size_t l = 0; l < count; ++l) {
                if (!is_finite_half(stored[l])) return false;
                to[l].d = stored[l];
                put_nibbles(q, l, to[l].q);
            }
            return true;
        });
}

inline EncodeResult encode_iq4_xs(const float* x, const float* importance, size_t width,
                                  size_t num_blocks, uint8_t* out) {
    uint8_t places[256] = {};
    kNonLinear.places(places);
    return each_batch<256, 32, EncodedIQ4_XS>(
        x, importance, width, num_blocks, out, Weighting::kSquare,
        [&](const Blocks<256>& b, size_t count, EncodedIQ4_XS* to) {
            SuperBlocks s;
            encode_scales<32, 32>(b, kNonLinear, -134.0f, 2.0f, 16, s);
            to_places<256>(places, s.q);
            for (size_t l = 0; l < count; ++l) {
                to[l].d = float_to_half(s.d[l]);
                if (!is_finite_half(to[l].d)) return false;
                for (int pair = 0; pair < 4; ++pair) {
                    const int a = whole(s.scale[2 * pair][l]) + 32;
                    const int b2 = whole(s.scale[2 * pair + 1][l]) + 32;
                    to[l].scales_low[pair] = static_cast<uint8_t>((a & 15) | (b2 & 15) << 4);
                }
                for (int byte = 0; byte < 2; ++byte) {
                    int bits = 0;
                    for (int k = 0; k < 4; ++k) {
                        bits |= (whole(s.scale[4 * byte + k][l]) + 32) >> 4 << (2 * k);
                    }
                    to[l].scales_high[byte] = static_cast<uint8_t>(bits);
                }
                for (int g = 0; g < 8; ++g) {
                    put_nibbles(group_of<32>(s.q, g), l, to[l].q[g]);
                }
            }
            return true;
        });
}

// Half of 2 to the power of exponent - 127.
inline float half_power(int exponent) {
    return std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent
                                             : static_cast<uint32_t>(exponent - 1) << 23);
}

inline EncodeResult encode_mxfp4(const float* x, const float* importance, size_t width,
                                 size_t num_blocks, uint8_t* out) {
    uint8_t places[256] = {};
    kMicro.places(places);
    for (int value = -12; value <= 12; ++value) {
        const int k = places[value + 128];
        places[value + 128] = static_cast<uint8_t>(k >= 7 ? k - 7 : 8 + 7 - k);
    }
    return each_batch<32, 32, EncodedMXFP4>(
        x, importance, width, num_blocks, out, Weighting::kRmsPlusMagnitude,
        [&](const Blocks<32>& b, size_t count, EncodedMXFP4* to) {
            alignas(64) PerBlock top;
            alignas(64) PerBlock d;
            alignas(64) PerBlock best;
            alignas(64) Levels<32> q;
            int chosen[kAbreast];
            largest<32>(b.x, top);
            for (int l = 0; l < kAbreast; ++l) best[l] = 3.4e38f;
            for (int step = -1; step <= 1; ++step) {
                alignas(64) PerBlock error = {};
                alignas(64) PerBlock inv;
                int exponent[kAbreast];
                for (int l = 0; l < kAbreast; ++l) {
                    const auto bits = std::bit_cast<uint32_t>(std::fabs(top[l]));
                    const int e = static_cast<int>(bits >> 23) - 2 + step;
                    exponent[l] = e < 0 ? 0 : e > 254 ? 254 : e;
                    d[l] = half_power(exponent[l]);
                    inv[l] = 1.0f / d[l];
                }
                for (int i = 0; i < 32; ++i) {
                    for (int l = 0; l < kAbreast; ++l) {
                        const float rest = b.x[i][l] - d[l] * kMicro(b.x[i][l] * inv[l]);
                        error[l] += b.w[i][l] * rest * rest;
                    }
                }
                for (int l = 0; l < kAbreast; ++l) {
                    const bool better = error[l] < best[l];
                    best[l] = better ? error[l] : best[l];
                    chosen[l] = better || step == -1 ? exponent[l] : chosen[l];
                }
            }
            for (int l = 0; l < kAbreast; ++l) d[l] = half_power(chosen[l]);
            for (int i = 0; i < 32; ++i) {
                for (int l = 0; l < kAbreast; ++l) {
                    const float v = kMicro(b.x[i][l] * (1.0f / d[l]));
                    q[i][l] = static_cast<int8_t>(static_cast<int32_t>(v));
                }
            }
            to_places<32>(places, q);
            for (size_t l = 0; l < count; ++l) {
                to[l].exponent = static_cast<uint8_t>(chosen[l]);
                put_nibbles(q, l, to[l].q);
            }
            return true;
        });
}

// Levels -1, 0, 1, stored with 1 added. Weights that are so many levels already stay as they are.
template <class Block, class Put>
EncodeResult encode_ternary(const float* x, const float* importance, size_t width,
                            size_t num_blocks, uint8_t* out, const Put& put) {
    return each_batch<256, 256, Block>(x, importance, width, num_blocks, out,
                                       Weighting::kRmsPlusMagnitude,
                                       [&](const Blocks<256>& b, size_t count, Block* to) {
                                           constexpr Uniform kLevel{-1.0f, 1.0f};
                                           alignas(64) PerBlock d;
                                           alignas(64) Levels<256> q;
                                           search_scale<256>(b.x, b.w, kLevel, 1.0f, 0.25f, 12, d);
                                           half_t stored[kAbreast];
                                           for (int l = 0; l < kAbreast; ++l) {
                                               stored[l] = float_to_half(std::fabs(d[l]));
                                               d[l] = half_to_float(stored[l]);
                                           }
                                           levels_at<256>(b.x, kLevel, d, q);
                                           for (int i = 0; i < 256; ++i) {
                                               for (int l = 0; l < kAbreast; ++l)
                                                   q[i][l] = static_cast<int8_t>(q[i][l] + 1);
                                           }
                                           for (size_t l = 0; l < count; ++l) {
                                               if (!is_finite_half(stored[l])) return false;
                                               to[l].d = stored[l];
                                               put(q, l, to[l]);
                                           }
                                           return true;
                                       });
}

inline EncodeResult encode_tq2_0(const float* x, const float* importance, size_t width,
                                 size_t num_blocks, uint8_t* out) {
    return encode_ternary<EncodedTQ2_0>(
        x, importance, width, num_blocks, out,
        [](const Levels<256>& q, size_t lane, EncodedTQ2_0& to) { put_two_bits(q, lane, to.q); });
}

// Five ternary digits in a byte as a fraction of 256, rounded up, so that multiplying by 3 gives
// one after another. Elements `stride` apart share a byte.
inline uint8_t five_digits(const Levels<256>& q, size_t lane, int first, int stride, int count) {
    int number = 0;
    for (int k = 0; k < 5; ++k) {
        number = 3 * number + (k < count ? q[first + k * stride][lane] : 0);
    }
    return static_cast<uint8_t>((number * 256 + 242) / 243);
}

inline EncodeResult encode_tq1_0(const float* x, const float* importance, size_t width,
                                 size_t num_blocks, uint8_t* out) {
    return encode_ternary<EncodedTQ1_0>(x, importance, width, num_blocks, out,
                                        [](const Levels<256>& q, size_t lane, EncodedTQ1_0& to) {
                                            for (int i = 0; i < 32; ++i)
                                                to.q[i] = five_digits(q, lane, i, 32, 5);
                                            for (int i = 0; i < 16; ++i)
                                                to.q[32 + i] = five_digits(q, lane, 160 + i, 16, 5);
                                            for (int i = 0; i < 4; ++i)
                                                to.high[i] = five_digits(q, lane, 240 + i, 4, 4);
                                        });
}

constexpr EncodeKernels all_encoders() {
    EncodeKernels kernels{};
    auto set = [&](int type, size_t block_width, size_t block_bytes, auto run) {
        kernels.of[type] = {block_width, block_bytes, run};
    };
    set(2, 32, sizeof(BlockQ4_0), encode_centred<8, BlockQ4_0>);
    set(3, 32, sizeof(BlockQ4_1), encode_ranged<15, BlockQ4_1>);
    set(6, 32, sizeof(BlockQ5_0), encode_centred<16, BlockQ5_0>);
    set(7, 32, sizeof(BlockQ5_1), encode_ranged<31, BlockQ5_1>);
    set(8, 32, sizeof(BlockQ8_0), encode_q8_0);
    set(10, 256, sizeof(BlockQ2_K), encode_q2_k);
    set(11, 256, sizeof(BlockQ3_K), encode_q3_k);
    set(12, 256, sizeof(BlockQ4_K), encode_pairs<15, BlockQ4_K>);
    set(13, 256, sizeof(BlockQ5_K), encode_pairs<31, BlockQ5_K>);
    set(14, 256, sizeof(BlockQ6_K), encode_q6_k);
    set(20, 32, sizeof(EncodedIQ4_NL), encode_iq4_nl);
    set(23, 256, sizeof(EncodedIQ4_XS), encode_iq4_xs);
    set(34, 256, sizeof(EncodedTQ1_0), encode_tq1_0);
    set(35, 256, sizeof(EncodedTQ2_0), encode_tq2_0);
    set(39, 32, sizeof(EncodedMXFP4), encode_mxfp4);
    return kernels;
}

}  // namespace
}  // namespace tektra
