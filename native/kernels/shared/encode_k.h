// Encodes the k-quants: super-blocks of 256 elements in groups with whole-numbered scales.
#pragma once

#include "encode_search.h"

namespace tektra {
namespace {

// What a super-block becomes. Scales and minima are whole numbers of d and dmin, which are rounded
// to binary16 already.
struct SuperBlocks {
    alignas(64) PerBlock d;
    alignas(64) PerBlock dmin;
    alignas(64) Elements<16> scale;
    alignas(64) Elements<16> min;
    alignas(64) Levels<256> q;
};

template <int kSize>
const Elements<kSize>& group_of(const Elements<256>& all, int g) {
    return *reinterpret_cast<const Elements<kSize>*>(all + g * kSize);
}
template <int kSize>
Levels<kSize>& group_of(Levels<256>& all, int g) {
    return *reinterpret_cast<Levels<kSize>*>(all + g * kSize);
}

// Formats without minima: value = d * scale * level, scale in [-kScales, kScales - 1].
template <int kSize, int kScales, class Level>
void encode_scales(const Blocks<256>& b, const Level& level, float first, float step, int tries,
                   SuperBlocks& s) {
    constexpr int kGroups = 256 / kSize;
    alignas(64) Elements<kGroups> d;
    alignas(64) PerBlock inv;
    alignas(64) PerBlock scale;
    for (int g = 0; g < kGroups; ++g) {
        search_scale<kSize>(group_of<kSize>(b.x, g), group_of<kSize>(b.w, g), level, first, step,
                            tries, d[g]);
    }
    largest<kGroups>(d, s.d);
    for (int l = 0; l < kAbreast; ++l) {
        s.d[l] = as_half(s.d[l] * (-1.0f / kScales));
        inv[l] = inverse(s.d[l]);
    }
    alignas(64) PerBlock ux = {};
    alignas(64) PerBlock uu = {};
    for (int g = 0; g < kGroups; ++g) {
        for (int l = 0; l < kAbreast; ++l) {
            s.scale[g][l] = nearest(clamped(d[g][l] * inv[l], -kScales, kScales - 1));
            scale[l] = s.d[l] * s.scale[g][l];
        }
        const auto& x = group_of<kSize>(b.x, g);
        const auto& w = group_of<kSize>(b.w, g);
        auto& q = group_of<kSize>(s.q, g);
        levels_at<kSize>(x, level, scale, q);
        for (int i = 0; i < kSize; ++i) {
            for (int l = 0; l < kAbreast; ++l) {
                const float u = s.scale[g][l] * static_cast<float>(q[i][l]);
                const float wu = w[i][l] * u;
                ux[l] += wu * x[i][l];
                uu[l] += wu * u;
            }
        }
    }
    // d anew, for the scales and levels as they are, and the levels for it
    for (int l = 0; l < kAbreast; ++l) s.d[l] = uu[l] > 0.0f ? as_half(ux[l] / uu[l]) : s.d[l];
    for (int g = 0; g < kGroups; ++g) {
        for (int l = 0; l < kAbreast; ++l) scale[l] = s.d[l] * s.scale[g][l];
        levels_at<kSize>(group_of<kSize>(b.x, g), level, scale, group_of<kSize>(s.q, g));
    }
}

// Formats with minima: value = d * scale * level - dmin * min, both whole numbers up to kScales.
template <int kSize, int kTop, int kScales>
void encode_ranges(const Blocks<256>& b, float first, float step, int tries, SuperBlocks& s) {
    constexpr int kGroups = 256 / kSize;
    alignas(64) Elements<kGroups> d;
    alignas(64) Elements<kGroups> m;
    alignas(64) PerBlock inv;
    alignas(64) PerBlock inv_min;
    alignas(64) PerBlock scale;
    alignas(64) PerBlock min;
    for (int l = 0; l < kAbreast; ++l) s.d[l] = s.dmin[l] = 0.0f;
    for (int g = 0; g < kGroups; ++g) {
        search_range<kSize>(group_of<kSize>(b.x, g), group_of<kSize>(b.w, g), kTop, true, first,
                            step, tries, d[g], m[g]);
        for (int l = 0; l < kAbreast; ++l) {
            s.d[l] = d[g][l] > s.d[l] ? d[g][l] : s.d[l];
            s.dmin[l] = -m[g][l] > s.dmin[l] ? -m[g][l] : s.dmin[l];
        }
    }
    for (int l = 0; l < kAbreast; ++l) {
        s.d[l] = as_half(s.d[l] * (1.0f / kScales));
        s.dmin[l] = as_half(s.dmin[l] * (1.0f / kScales));
        inv[l] = inverse(s.d[l]);
        inv_min[l] = inverse(s.dmin[l]);
    }
    alignas(64) PerBlock uu = {};
    alignas(64) PerBlock uv = {};
    alignas(64) PerBlock vv = {};
    alignas(64) PerBlock ux = {};
    alignas(64) PerBlock vx = {};
    for (int g = 0; g < kGroups; ++g) {
        const auto& x = group_of<kSize>(b.x, g);
        const auto& w = group_of<kSize>(b.w, g);
        auto& q = group_of<kSize>(s.q, g);
        for (int l = 0; l < kAbreast; ++l) {
            s.min[g][l] = nearest(clamped(-m[g][l] * inv_min[l], 0.0f, kScales));
            min[l] = -(s.dmin[l] * s.min[g][l]);
        }
        // the scale anew for the minimum as it will be
        levels_from<kSize>(x, kTop, d[g], min, q);
        alignas(64) PerBlock qx = {};
        alignas(64) PerBlock qq = {};
        for (int i = 0; i < kSize; ++i) {
            for (int l = 0; l < kAbreast; ++l) {
                const auto level = static_cast<float>(q[i][l]);
                const float wq = w[i][l] * level;
                qx[l] += wq * (x[i][l] - min[l]);
                qq[l] += wq * level;
            }
        }
        for (int l = 0; l < kAbreast; ++l) {
            const float best = qq[l] > 0.0f ? qx[l] / qq[l] : d[g][l];
            s.scale[g][l] = nearest(clamped(best * inv[l], 0.0f, kScales));
            scale[l] = s.d[l] * s.scale[g][l];
        }
        levels_from<kSize>(x, kTop, scale, min, q);
        for (int i = 0; i < kSize; ++i) {
            for (int l = 0; l < kAbreast; ++l) {
                const float u = s.scale[g][l] * static_cast<float>(q[i][l]);
                const float v = s.min[g][l];
                const float wu = w[i][l] * u;
                const float wv = w[i][l] * v;
                uu[l] += wu * u;
                uv[l] += wu * v;
                vv[l] += wv * v;
                ux[l] += wu * x[i][l];
                vx[l] += wv * x[i][l];
            }
        }
    }
    // d and dmin anew, for scales, minima and levels as they are, and the levels for them
    for (int l = 0; l < kAbreast; ++l) {
        const float det = uu[l] * vv[l] - uv[l] * uv[l];
        const float both = (ux[l] * vv[l] - uv[l] * vx[l]) / det;
        const float both_min = (uv[l] * ux[l] - uu[l] * vx[l]) / det;
        const float alone = uu[l] > 0.0f ? ux[l] / uu[l] : s.d[l];
        const bool sure = det > 1e-3f * uu[l] * vv[l] && both > 0.0f && both_min > 0.0f;
        const bool without = vv[l] == 0.0f && alone > 0.0f;
        s.d[l] = as_half(sure ? both : without ? alone : s.d[l]);
        s.dmin[l] = as_half(sure ? both_min : s.dmin[l]);
    }
    for (int g = 0; g < kGroups; ++g) {
        for (int l = 0; l < kAbreast; ++l) {
            scale[l] = s.d[l] * s.scale[g][l];
            min[l] = -(s.dmin[l] * s.min[g][l]);
        }
        levels_from<kSize>(group_of<kSize>(b.x, g), kTop, scale, min, group_of<kSize>(s.q, g));
    }
}

inline int whole(float v) {
    return static_cast<int>(v);
}

// Two bits of each element: bits 2 * (e / 32) of byte 32 * half + e % 32.
inline void put_two_bits(const Levels<256>& q, size_t lane, uint8_t* out) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; ++i) {
            int bits = 0;
            for (int pair = 0; pair < 4; ++pair) {
                bits |= (q[128 * half + 32 * pair + i][lane] & 3) << (2 * pair);
            }
            out[32 * half + i] = static_cast<uint8_t>(bits);
        }
    }
}

// Bit `from` of element e becomes bit e / 32 of byte e % 32.
inline void put_high_bits(const Levels<256>& q, size_t lane, int from, uint8_t* out) {
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int run = 0; run < 8; ++run) bits |= (q[32 * run + i][lane] >> from & 1) << run;
        out[i] = static_cast<uint8_t>(bits);
    }
}

// Low four bits of 64 neighbouring elements in 32 bytes: the first 32 in the low halves.
inline void put_chunked_nibbles(const Levels<256>& q, size_t lane, uint8_t* out) {
    for (int chunk = 0; chunk < 4; ++chunk) {
        for (int i = 0; i < 32; ++i) {
            out[32 * chunk + i] = static_cast<uint8_t>((q[64 * chunk + i][lane] & 15) |
                                                       (q[64 * chunk + 32 + i][lane] & 15) << 4);
        }
    }
}

// Eight scales and eight minima of six bits in 12 bytes.
inline void put_six_bit_pairs(const SuperBlocks& s, size_t lane, uint8_t* out) {
    for (int g = 0; g < 4; ++g) {
        const int scale = whole(s.scale[g + 4][lane]);
        const int min = whole(s.min[g + 4][lane]);
        out[g] = static_cast<uint8_t>(whole(s.scale[g][lane]) | scale >> 4 << 6);
        out[g + 4] = static_cast<uint8_t>(whole(s.min[g][lane]) | min >> 4 << 6);
        out[g + 8] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
    }
}

// Puts d and dmin; false where they are too large.
template <class Block>
bool put_factors(const SuperBlocks& s, size_t lane, Block& to) {
    to.d = float_to_half(s.d[lane]);
    if constexpr (requires { to.dmin; }) {
        to.dmin = float_to_half(s.dmin[lane]);
        if (!is_finite_half(to.dmin)) return false;
    }
    return is_finite_half(to.d);
}

inline EncodeResult encode_q2_k(const float* x, const float* importance, size_t width,
                                size_t num_blocks, uint8_t* out) {
    return each_batch<256, 16, BlockQ2_K>(
        x, importance, width, num_blocks, out, Weighting::kMagnitude,
        [](const Blocks<256>& b, size_t count, BlockQ2_K* to) {
            SuperBlocks s;
            encode_ranges<16, 3, 15>(b, 2.1f, 0.1f, 19, s);
            for (size_t l = 0; l < count; ++l) {
                if (!put_factors(s, l, to[l])) return false;
                for (int g = 0; g < 16; ++g) {
                    to[l].scales[g] =
                        static_cast<uint8_t>(whole(s.scale[g][l]) | whole(s.min[g][l]) << 4);
                }
                put_two_bits(s.q, l, to[l].q);
            }
            return true;
        });
}

inline EncodeResult encode_q3_k(const float* x, const float* importance, size_t width,
                                size_t num_blocks, uint8_t* out) {
    return each_batch<256, 16, BlockQ3_K>(
        x, importance, width, num_blocks, out, Weighting::kSquare,
        [](const Blocks<256>& b, size_t count, BlockQ3_K* to) {
            SuperBlocks s;
            encode_scales<16, 32>(b, Uniform{-4.0f, 3.0f}, -4.9f, 0.1f, 19, s);
            for (int i = 0; i < 256; ++i) {
                for (int l = 0; l < kAbreast; ++l) s.q[i][l] = static_cast<int8_t>(s.q[i][l] + 4);
            }
            for (size_t l = 0; l < count; ++l) {
                if (!put_factors(s, l, to[l])) return false;
                put_two_bits(s.q, l, to[l].q);
                put_high_bits(s.q, l, 2, to[l].high);
                int scales[16];
                for (int g = 0; g < 16; ++g) scales[g] = whole(s.scale[g][l]) + 32;
                for (int g = 0; g < 8; ++g) {
                    to[l].scales[g] =
                        static_cast<uint8_t>((scales[g] & 15) | (scales[g + 8] & 15) << 4);
                }
                for (int g = 0; g < 4; ++g) {
                    int bits = 0;
                    for (int k = 0; k < 4; ++k) bits |= scales[4 * k + g] >> 4 << (2 * k);
                    to[l].scales[8 + g] = static_cast<uint8_t>(bits);
                }
            }
            return true;
        });
}

// Q4_K and Q5_K.
template <int kTop, class Block>
EncodeResult encode_pairs(const float* x, const float* importance, size_t width, size_t num_blocks,
                          uint8_t* out) {
    return each_batch<256, 32, Block>(x, importance, width, num_blocks, out,
                                      Weighting::kRmsPlusMagnitude,
                                      [](const Blocks<256>& b, size_t count, Block* to) {
                                          SuperBlocks s;
                                          encode_ranges<32, kTop, 63>(b, kTop - 0.9f, 0.1f, 20, s);
                                          for (size_t l = 0; l < count; ++l) {
                                              if (!put_factors(s, l, to[l])) return false;
                                              put_six_bit_pairs(s, l, to[l].scales);
                                              put_chunked_nibbles(s.q, l, to[l].q);
                                              if constexpr (kTop == 31)
                                                  put_high_bits(s.q, l, 4, to[l].high);
                                          }
                                          return true;
                                      });
}

inline EncodeResult encode_q6_k(const float* x, const float* importance, size_t width,
                                size_t num_blocks, uint8_t* out) {
    return each_batch<256, 16, BlockQ6_K>(
        x, importance, width, num_blocks, out, Weighting::kSquare,
        [](const Blocks<256>& b, size_t count, BlockQ6_K* to) {
            SuperBlocks s;
            encode_scales<16, 128>(b, Uniform{-32.0f, 31.0f}, -32.9f, 0.1f, 19, s);
            for (int i = 0; i < 256; ++i) {
                for (int l = 0; l < kAbreast; ++l) s.q[i][l] = static_cast<int8_t>(s.q[i][l] + 32);
            }
            for (size_t l = 0; l < count; ++l) {
                if (!put_factors(s, l, to[l])) return false;
                for (int g = 0; g < 16; ++g) {
                    to[l].scales[g] = static_cast<int8_t>(whole(s.scale[g][l]));
                }
                for (int half = 0; half < 2; ++half) {
                    for (int i = 0; i < 32; ++i) {
                        int q[4];
                        for (int run = 0; run < 4; ++run) {
                            q[run] = s.q[128 * half + 32 * run + i][l];
                        }
                        to[l].low[64 * half + i] =
                            static_cast<uint8_t>((q[0] & 15) | (q[2] & 15) << 4);
                        to[l].low[64 * half + 32 + i] =
                            static_cast<uint8_t>((q[1] & 15) | (q[3] & 15) << 4);
                        to[l].high[32 * half + i] = static_cast<uint8_t>(
                            q[0] >> 4 | q[1] >> 4 << 2 | q[2] >> 4 << 4 | q[3] >> 4 << 6);
                    }
                }
            }
            return true;
        });
}

}  // namespace
}  // namespace tektra
