// The IQ types: code words are looked up here, once, so that a field is the number of a level.
#pragma once

#include <bit>

#include "codebooks.h"
#include "formats.h"

namespace tektra::scalar {
namespace {

inline uint32_t two_words(const uint16_t* p) {
    return p[0] | static_cast<uint32_t>(p[1]) << 16;
}

// The eighth sign of seven makes the number of minuses even.
inline int even_signs(uint32_t seven) {
    return static_cast<int>(seven | (std::popcount(seven) & 1u) << 7);
}

// Magnitudes 0, 1, 2 with signs as numbers of kLevelsIQ2: 3, 4, 5, and 2, 1, 0.
inline void put_signed3(const uint8_t (&magnitude)[8], int signs, uint8_t* out) {
    for (size_t i = 0; i < 8; ++i) {
        out[i] = static_cast<uint8_t>((signs >> i & 1) != 0 ? 2 - magnitude[i] : 3 + magnitude[i]);
    }
}

// Magnitudes 0 .. 7 of two code words, with signs: 8 .. 15, and 7 .. 0.
inline void put_signed4(const uint8_t (&first)[4], const uint8_t (&second)[4], int signs,
                        uint8_t* out) {
    for (size_t i = 0; i < 8; ++i) {
        const int magnitude = i < 4 ? first[i] : second[i - 4];
        out[i] = static_cast<uint8_t>((signs >> i & 1) != 0 ? 7 - magnitude : 8 + magnitude);
    }
}

inline int nibble(const uint8_t* packed, size_t i) {
    return packed[i / 2] >> (i % 2 == 0 ? 0 : 4) & 15;
}

inline uint8_t odd(int s) {
    return static_cast<uint8_t>(2 * s + 1);
}

// Super-blocks of one PackedScaled: level(field) is what a field stands for.
template <class PackedBlock, size_t kParts>
struct Scaled {
    using Packed = PackedBlock;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr size_t kPart = kSuperWidth / kParts;
    template <int L>
    static void put(const Quants<L>& q, size_t sub, Packed& p) {
        put_all(q, p.q[sub]);
    }
    static int field(const Packed& p, size_t e, size_t lane) {
        return get(p.q[e / kSub], e % kSub, lane);
    }
    // d * factor * scale, all of which but the product with a level is exact
    static float scale(const Packed& p, size_t e, size_t lane, float factor) {
        return half_to_float(p.d[lane]) * factor * static_cast<float>(p.scale[e / kPart][lane]);
    }
    static float value(const Packed& p, size_t e, size_t lane, float factor, const Levels& levels) {
        const int level = levels.at[field(p, e, lane)] - levels.offset;
        return scale(p, e, lane, factor) * static_cast<float>(level);
    }
};

template <int L>
struct IQ2_XXS : Scaled<PackedIQ2_XXS<L>, 8> {
    using Source = BlockIQ2_XXS;
    using Base = Scaled<PackedIQ2_XXS<L>, 8>;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq2_xxs();
        const uint32_t words = two_words(s.q[sub]), rest = two_words(s.q[sub] + 2);
        for (size_t i = 0; i < 4; ++i) {
            put_signed3(book.level[words >> 8 * i & 255], even_signs(rest >> 7 * i & 127),
                        out + 8 * i);
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ2_XXS<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 8; ++i) p.scale[i][lane] = odd(s.q[i][3] >> 12);
    }
    static float value(const PackedIQ2_XXS<L>& p, size_t e, size_t lane) {
        return Base::value(p, e, lane, 0.125f, kLevelsIQ2);
    }
};

template <int L>
struct IQ2_XS : Scaled<PackedIQ2_S<L>, 16> {
    using Source = BlockIQ2_XS;
    using Base = Scaled<PackedIQ2_S<L>, 16>;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq2_xs();
        for (size_t i = 0; i < 4; ++i) {
            const uint32_t word = s.q[4 * sub + i];
            put_signed3(book.level[word & 511], even_signs(word >> 9), out + 8 * i);
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ2_S<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) p.scale[i][lane] = odd(nibble(s.scales, i));
    }
    static float value(const PackedIQ2_S<L>& p, size_t e, size_t lane) {
        return Base::value(p, e, lane, 0.125f, kLevelsIQ2);
    }
};

template <int L>
struct IQ2_S : Scaled<PackedIQ2_S<L>, 16> {
    using Source = BlockIQ2_S;
    using Base = Scaled<PackedIQ2_S<L>, 16>;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq2_s();
        for (size_t i = 0; i < 4; ++i) {
            const int word = s.q[4 * sub + i] | (s.high[sub] >> 2 * i & 3) << 8;
            put_signed3(book.level[word], s.signs[4 * sub + i], out + 8 * i);
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ2_S<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) p.scale[i][lane] = odd(nibble(s.scales, i));
    }
    static float value(const PackedIQ2_S<L>& p, size_t e, size_t lane) {
        return Base::value(p, e, lane, 0.125f, kLevelsIQ2);
    }
};

template <int L>
struct IQ3_XXS : Scaled<PackedIQ3<L>, 8> {
    using Source = BlockIQ3_XXS;
    using Base = Scaled<PackedIQ3<L>, 8>;
    static uint32_t rest(const Source& s, size_t sub) {
        const uint8_t* r = s.rest[sub];
        return r[0] | static_cast<uint32_t>(r[1]) << 8 | static_cast<uint32_t>(r[2]) << 16 |
               static_cast<uint32_t>(r[3]) << 24;
    }
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq3_xxs();
        for (size_t i = 0; i < 4; ++i) {
            const uint8_t* words = s.q + 8 * sub + 2 * i;
            put_signed4(book.level[words[0]], book.level[words[1]],
                        even_signs(rest(s, sub) >> 7 * i & 127), out + 8 * i);
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ3<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 8; ++i) p.scale[i][lane] = odd(s.rest[i][3] >> 4);
    }
    static float value(const PackedIQ3<L>& p, size_t e, size_t lane) {
        return Base::value(p, e, lane, 0.5f, kLevelsIQ3);
    }
};

template <int L>
struct IQ3_S : Scaled<PackedIQ3<L>, 8> {
    using Source = BlockIQ3_S;
    using Base = Scaled<PackedIQ3<L>, 8>;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq3_s();
        for (size_t i = 0; i < 4; ++i) {
            const uint8_t* words = s.q + 8 * sub + 2 * i;
            const int first = words[0] | (s.high[sub] >> 2 * i & 1) << 8;
            const int second = words[1] | (s.high[sub] >> (2 * i + 1) & 1) << 8;
            put_signed4(book.level[first], book.level[second], s.signs[4 * sub + i], out + 8 * i);
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ3<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 8; ++i) p.scale[i][lane] = odd(nibble(s.scales, i));
    }
    static float value(const PackedIQ3<L>& p, size_t e, size_t lane) {
        const int level = 2 * Base::field(p, e, lane) - 15;
        return Base::scale(p, e, lane, 1.0f) * static_cast<float>(level);
    }
};

template <int L>
struct IQ1_S {
    using Source = BlockIQ1_S;
    using Packed = PackedIQ1_S<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq1_s();
        for (size_t i = 0; i < 4; ++i) {
            const int word = s.q[4 * sub + i] | (s.high[sub] >> 3 * i & 7) << 8;
            std::memcpy(out + 8 * i, book.level[word], 8);
        }
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 8; ++i) {
            const uint8_t scale = odd(s.high[i] >> 12 & 7);
            p.scale[i][lane] = scale;
            p.min[i][lane] = static_cast<uint8_t>(scale * (s.high[i] >> 15 != 0 ? 9 : 7));
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int eighths =
            8 * p.scale[sub][lane] * get(p.q[sub], e % kSub, lane) - p.min[sub][lane];
        return half_to_float(p.d[lane]) * (0.125f * static_cast<float>(eighths));
    }
};

template <int L>
struct IQ1_M : Scaled<PackedIQ1_M<L>, 16> {
    using Source = BlockIQ1_M;
    using Base = Scaled<PackedIQ1_M<L>, 16>;
    static void quants(const Source& s, size_t sub, uint8_t* out) {
        const auto& book = codebook_iq1_s();
        for (size_t i = 0; i < 4; ++i) {
            const int rest = nibble(s.high, 4 * sub + i);
            const uint8_t (&level)[8] = book.level[s.q[4 * sub + i] | (rest & 7) << 8];
            const int plus = rest < 8 ? 1 : 0;
            for (size_t j = 0; j < 8; ++j) {
                out[8 * i + j] = static_cast<uint8_t>(2 * level[j] + plus);
            }
        }
    }
    static void scales(const Source& s, size_t lane, PackedIQ1_M<L>& p) {
        int d = 0;
        for (size_t i = 0; i < 4; ++i) d |= s.scales[i] >> 12 << 4 * i;
        p.d[lane] = static_cast<half_t>(d);
        for (size_t i = 0; i < 16; ++i) {
            p.scale[i][lane] = odd(s.scales[i / 4] >> 3 * (i % 4) & 7);
        }
    }
    static float value(const PackedIQ1_M<L>& p, size_t e, size_t lane) {
        const int eighths = 2 * kLevelsIQ1.at[Base::field(p, e, lane)] - 9;
        return Base::scale(p, e, lane, 0.125f) * static_cast<float>(eighths);
    }
};

template <int L>
struct IQ4_NL {
    using Source = BlockIQ4_NL;
    using Packed = PackedIQ4_NL<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) { return s.q[e % 16] >> (e < 16 ? 0 : 4) & 15; }
    static void scales(const Source& s, size_t lane, Packed& p) { p.d[lane] = s.d; }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int level = kLevelsIQ4.at[get(p.q, e, lane)] - kLevelsIQ4.offset;
        return half_to_float(p.d[lane]) * static_cast<float>(level);
    }
};

template <int L>
struct IQ4_XS : Scaled<PackedIQ4_XS<L>, 8> {
    using Source = BlockIQ4_XS;
    using Base = Scaled<PackedIQ4_XS<L>, 8>;
    static int quant(const Source& s, size_t e) {
        return s.q[e / 32][e % 16] >> (e % 32 < 16 ? 0 : 4) & 15;
    }
    static void scales(const Source& s, size_t lane, PackedIQ4_XS<L>& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 8; ++i) {
            const int scale = nibble(s.low, i) | (s.high >> 2 * i & 3) << 4;
            p.scale[i][lane] = static_cast<int8_t>(scale - 32);
        }
    }
    static float value(const PackedIQ4_XS<L>& p, size_t e, size_t lane) {
        return Base::value(p, e, lane, 1.0f, kLevelsIQ4);
    }
};

}  // namespace
}  // namespace tektra::scalar
