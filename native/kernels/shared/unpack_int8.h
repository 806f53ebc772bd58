// From packed blocks to the bytes that the dot products take, and the vectors of their scales: one
// struct a format. For any set of vector instructions; see linear_int8.h for what V has.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra {
namespace {

// 32 elements of all rows of a group: w = scale * q + min, scale and min once or for each half.
template <class V>
struct Weights {
    typename V::Int q[8];
    typename V::Float scale[2];
    typename V::Float min[2];
};

// a | b & mask
template <class V>
inline typename V::Int or_masked(typename V::Int a, typename V::Int b, int mask) {
    return V::or_and(a, b, V::splat8(mask));
}
template <class V>
inline typename V::Int masked(typename V::Int v, int mask) {
    return V::and_(v, V::splat8(mask));
}

// Fields of packed_blocks.h to registers 0..7.
template <class V>
inline void unpack_fields(const Fields<V::kLanes, 2>& packed, typename V::Int* q) {
    for (int h = 0; h < 2; ++h) {
        const auto four = V::load(packed.r[h]);
        q[4 * h] = masked<V>(four, 3);
        q[4 * h + 1] = masked<V>(V::template right<2>(four), 3);
        q[4 * h + 2] = masked<V>(V::template right<4>(four), 3);
        q[4 * h + 3] = masked<V>(V::template right<6>(four), 3);
    }
}

template <class V>
inline void unpack_fields(const Fields<V::kLanes, 3>& packed, typename V::Int* q) {
    const auto a = V::load(packed.r[0]), b = V::load(packed.r[1]), c = V::load(packed.r[2]);
    q[0] = masked<V>(a, 7);
    q[1] = masked<V>(V::template right<3>(a), 7);
    q[2] = masked<V>(b, 7);
    q[3] = masked<V>(V::template right<3>(b), 7);
    q[4] = masked<V>(c, 7);
    q[5] = masked<V>(V::template right<3>(c), 7);
    q[6] = or_masked<V>(masked<V>(V::template right<6>(a), 3), V::template right<4>(b), 4);
    q[7] = or_masked<V>(masked<V>(V::template right<7>(b), 1), V::template right<5>(c), 6);
}

template <class V>
inline void unpack_fields(const Fields<V::kLanes, 4>& packed, typename V::Int* q) {
    for (int j = 0; j < 4; ++j) {
        const auto both = V::load(packed.r[j]);
        q[j] = masked<V>(both, 15);
        q[j + 4] = masked<V>(V::template right<4>(both), 15);
    }
}

template <class V>
inline void unpack_fields(const Fields<V::kLanes, 5>& packed, typename V::Int* q) {
    typename V::Int r[5];
    for (int j = 0; j < 5; ++j) {
        r[j] = V::load(packed.r[j]);
        q[j] = masked<V>(r[j], 31);
    }
    q[5] = or_masked<V>(masked<V>(V::template right<5>(r[0]), 7), V::template right<2>(r[1]), 24);
    q[6] = or_masked<V>(masked<V>(V::template right<5>(r[2]), 7), V::template right<2>(r[3]), 24);
    q[7] = or_masked<V>(masked<V>(V::template right<5>(r[4]), 7), V::template right<4>(r[1]), 8);
    q[7] = or_masked<V>(q[7], V::template right<3>(r[3]), 16);
}

template <class V>
inline void unpack_fields(const Fields<V::kLanes, 6>& packed, typename V::Int* q) {
    typename V::Int r[6];
    for (int j = 0; j < 6; ++j) {
        r[j] = V::load(packed.r[j]);
        q[j] = masked<V>(r[j], 63);
    }
    for (int h = 0; h < 2; ++h) {
        const auto low = masked<V>(V::template right<6>(r[3 * h]), 3);
        const auto more = or_masked<V>(low, V::template right<4>(r[3 * h + 1]), 12);
        q[6 + h] = or_masked<V>(more, V::template right<2>(r[3 * h + 2]), 48);
    }
}

// The formats. Of each: its packed block and width, how many scales 32 elements have, what is added
// to the products (see Part), how many products of pairs can be added in an int16 (each at most
// 2 * 127 * the largest q), and whether the sum of 16 products fits an int16.
enum class Part {
    kNone,
    kMin,     // min * (sum of activations)
    kCentre,  // scale * centre: q is too large by 32
};

template <class V>
struct Formats {
    static constexpr int L = V::kLanes;
    using Int = typename V::Int;
    using Float = typename V::Float;

    static inline Float times(Float v, float factor) { return V::mul(v, V::splat(factor)); }

    // What is the same for all sub-blocks of a block.
    struct Super {
        Float d, m;
    };

    template <class PackedBlock, size_t width, int scales, Part part, int chain>
    struct Form {
        using Packed = PackedBlock;
        static constexpr size_t kWidth = width;
        static constexpr int kScales = scales;
        static constexpr Part kPart = part;
        static constexpr int kChain = chain;
        static constexpr bool kSigned = false;
        // whether both sums of 16 products, each times its factor, fit one int32: q up to 64
        static constexpr bool kHalvesFit = true;
        static constexpr bool kSumFitsInt16 = chain == 8;
        static inline Super super(const Packed&) { return {V::zero(), V::zero()}; }
    };

    // 8 * 2 * 127 * 15 = 30480
    struct Q4_0 : Form<PackedQ4_0<L>, kLegacyWidth, 1, Part::kMin, 8> {
        static inline void unpack(const PackedQ4_0<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = times(w.scale[0], -8.0f);
        }
    };

    struct Q4_1 : Form<PackedQ4_1<L>, kLegacyWidth, 1, Part::kMin, 8> {
        static inline void unpack(const PackedQ4_1<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = V::halves(p.m);
        }
    };

    // 4 * 2 * 127 * 31 = 31496
    struct Q5_0 : Form<PackedQ5_0<L>, kLegacyWidth, 1, Part::kMin, 4> {
        static inline void unpack(const PackedQ5_0<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = times(w.scale[0], -16.0f);
        }
    };

    struct Q5_1 : Form<PackedQ5_1<L>, kLegacyWidth, 1, Part::kMin, 4> {
        static inline void unpack(const PackedQ5_1<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = V::halves(p.m);
        }
    };

    // 2 * 127 * 128 = 32512; where products are unsigned, q + 128 is multiplied and 128 d taken off
    struct Q8_0
        : Form<PackedQ8_0<L>, kLegacyWidth, 1, V::kSignedProducts ? Part::kNone : Part::kMin, 1> {
        static constexpr bool kSigned = true;
        static constexpr bool kHalvesFit = false;
        static inline void unpack(const PackedQ8_0<L>& p, size_t, const Super&, Weights<V>& w) {
            for (int j = 0; j < 8; ++j) {
                w.q[j] = V::load(p.q[j]);
                if constexpr (!V::kSignedProducts) w.q[j] = V::xor_(w.q[j], V::splat8(-128));
            }
            w.scale[0] = V::halves(p.d);
            if constexpr (!V::kSignedProducts) w.min[0] = times(w.scale[0], -128.0f);
        }
    };

    // 8 * 2 * 127 * 3
    struct Q2_K : Form<PackedQ2_K<L>, kSuperWidth, 2, Part::kMin, 8> {
        static inline Super super(const PackedQ2_K<L>& p) {
            return {V::halves(p.d), times(V::halves(p.dmin), 1.0f / 32.0f)};  // as centre is
        }
        static inline void unpack(const PackedQ2_K<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(super.d, V::widen(p.scale[2 * s + h]));
                w.min[h] = V::mul(super.m, V::widen(p.min[2 * s + h]));
            }
        }
    };

    // 8 * 2 * 127 * 7 = 14224
    struct Q3_K : Form<PackedQ3_K<L>, kSuperWidth, 2, Part::kMin, 8> {
        static inline Super super(const PackedQ3_K<L>& p) { return {V::halves(p.d), V::zero()}; }
        static inline void unpack(const PackedQ3_K<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(super.d, V::widen(p.scale[2 * s + h]));
                w.min[h] = times(w.scale[h], 4.0f / 32.0f);
            }
        }
    };

    struct Q4_K : Form<PackedQ4_K<L>, kSuperWidth, 1, Part::kMin, 8> {
        static inline Super super(const PackedQ4_K<L>& p) {
            return {V::halves(p.d), times(V::halves(p.dmin), -1.0f)};
        }
        static inline void unpack(const PackedQ4_K<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            w.scale[0] = V::mul(super.d, V::widen(p.scale[s]));
            w.min[0] = V::mul(super.m, V::widen(p.min[s]));
        }
    };

    struct Q5_K : Form<PackedQ5_K<L>, kSuperWidth, 1, Part::kMin, 4> {
        static inline Super super(const PackedQ5_K<L>& p) {
            return {V::halves(p.d), times(V::halves(p.dmin), -1.0f)};
        }
        static inline void unpack(const PackedQ5_K<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            w.scale[0] = V::mul(super.d, V::widen(p.scale[s]));
            w.min[0] = V::mul(super.m, V::widen(p.min[s]));
        }
    };

    // 2 * 2 * 127 * 63 = 32004
    struct Q6_K : Form<PackedQ6_K<L>, kSuperWidth, 2, Part::kCentre, 2> {
        static inline Super super(const PackedQ6_K<L>& p) { return {V::halves(p.d), V::zero()}; }
        static inline void unpack(const PackedQ6_K<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(super.d, V::widen(p.scale[2 * s + h]));
            }
        }
    };

    // What fields are the numbers of: unsigned, with an offset that a min takes off again.
    static inline void look_up(const Levels& levels, Int* q) {
        const Int table = V::table(levels.at);
        for (int j = 0; j < 8; ++j) q[j] = V::look_up(table, q[j]);
    }

    // d * scale of 32 elements, or of each half
    template <int scales, class P>
    static inline void scale_by(const P& p, size_t s, Float d, Weights<V>& w) {
        for (int h = 0; h < scales; ++h) w.scale[h] = V::mul(d, V::widen(p.scale[scales * s + h]));
    }
    static inline void min_of_halves(float offset, Weights<V>& w) {
        for (int h = 0; h < 2; ++h) w.min[h] = times(w.scale[h], offset / 32.0f);  // as centre is
    }

    // 2 * 127 * 86 = 21844
    struct IQ2_XXS : Form<PackedIQ2_XXS<L>, kSuperWidth, 1, Part::kMin, 1> {
        static constexpr bool kHalvesFit = false;
        static inline Super super(const PackedIQ2_XXS<L>& p) {
            return {times(V::halves(p.d), 0.125f), V::zero()};
        }
        static inline void unpack(const PackedIQ2_XXS<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            look_up(kLevelsIQ2, w.q);
            scale_by<1>(p, s, super.d, w);
            w.min[0] = times(w.scale[0], -43.0f);
        }
    };

    struct IQ2_S : Form<PackedIQ2_S<L>, kSuperWidth, 2, Part::kMin, 1> {
        static inline Super super(const PackedIQ2_S<L>& p) {
            return {times(V::halves(p.d), 0.125f), V::zero()};
        }
        static inline void unpack(const PackedIQ2_S<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            look_up(kLevelsIQ2, w.q);
            scale_by<2>(p, s, super.d, w);
            min_of_halves(43.0f, w);
        }
    };

    // 2 * 2 * 127 * 62 = 31496
    struct IQ3_XXS : Form<PackedIQ3<L>, kSuperWidth, 1, Part::kMin, 2> {
        static inline Super super(const PackedIQ3<L>& p) {
            return {times(V::halves(p.d), 0.5f), V::zero()};
        }
        static inline void unpack(const PackedIQ3<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            look_up(kLevelsIQ3, w.q);
            scale_by<1>(p, s, super.d, w);
            w.min[0] = times(w.scale[0], -31.0f);
        }
    };

    // magnitudes are the odd numbers up to 15: 2 q - 15
    struct IQ3_S : Form<PackedIQ3<L>, kSuperWidth, 1, Part::kMin, 8> {
        static inline Super super(const PackedIQ3<L>& p) {
            return {times(V::halves(p.d), 2.0f), V::zero()};
        }
        static inline void unpack(const PackedIQ3<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            scale_by<1>(p, s, super.d, w);
            w.min[0] = times(w.scale[0], -7.5f);
        }
    };

    struct IQ1_S : Form<PackedIQ1_S<L>, kSuperWidth, 1, Part::kMin, 8> {
        static inline Super super(const PackedIQ1_S<L>& p) {
            return {V::halves(p.d), times(V::halves(p.d), -0.125f)};
        }
        static inline void unpack(const PackedIQ1_S<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            scale_by<1>(p, s, super.d, w);
            w.min[0] = V::mul(super.m, V::widen(p.min[s]));
        }
    };

    // 8 * 2 * 127 * 9 = 18288
    struct IQ1_M : Form<PackedIQ1_M<L>, kSuperWidth, 2, Part::kMin, 8> {
        static inline Super super(const PackedIQ1_M<L>& p) {
            return {times(V::halves(p.d), 0.25f), V::zero()};
        }
        static inline void unpack(const PackedIQ1_M<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            look_up(kLevelsIQ1, w.q);
            scale_by<2>(p, s, super.d, w);
            min_of_halves(4.5f, w);
        }
    };

    // Levels of eight bits, as Q8_0 has them.
    template <class Packed, size_t width>
    struct IQ4 : Form<Packed, width, 1, V::kSignedProducts ? Part::kNone : Part::kMin, 1> {
        static constexpr bool kSigned = true;
        static constexpr bool kHalvesFit = false;
        static inline void finish(Weights<V>& w) {
            const Int table = V::table(kLevelsIQ4.at);
            const Int levels = V::kSignedProducts ? V::xor_(table, V::splat8(-128)) : table;
            for (int j = 0; j < 8; ++j) w.q[j] = V::look_up(levels, w.q[j]);
            if constexpr (!V::kSignedProducts) w.min[0] = times(w.scale[0], -128.0f);
        }
    };

    struct IQ4_NL : IQ4<PackedIQ4_NL<L>, kLegacyWidth> {
        static inline void unpack(const PackedIQ4_NL<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            IQ4<PackedIQ4_NL<L>, kLegacyWidth>::finish(w);
        }
    };

    struct IQ4_XS : IQ4<PackedIQ4_XS<L>, kSuperWidth> {
        static inline Super super(const PackedIQ4_XS<L>& p) { return {V::halves(p.d), V::zero()}; }
        static inline void unpack(const PackedIQ4_XS<L>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            scale_by<1>(p, s, super.d, w);
            IQ4<PackedIQ4_XS<L>, kSuperWidth>::finish(w);
        }
    };

    // 4 * 2 * 127 * 24 = 24384
    struct MXFP4 : Form<PackedMXFP4<L>, kLegacyWidth, 1, Part::kMin, 4> {
        static inline void unpack(const PackedMXFP4<L>& p, size_t, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q, w.q);
            look_up(kLevelsFP4, w.q);
            w.scale[0] = V::e8m0_halves(p.e);
            w.min[0] = times(w.scale[0], -12.0f);
        }
    };

    struct NVFP4 : Form<PackedNVFP4<L>, 64, 2, Part::kMin, 4> {
        static inline void unpack(const PackedNVFP4<L>& p, size_t s, const Super&, Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            look_up(kLevelsFP4, w.q);
            for (int h = 0; h < 2; ++h) w.scale[h] = V::halves(p.scale[2 * s + h]);
            min_of_halves(12.0f, w);
        }
    };

    template <int width>
    struct TwoBits : Form<PackedTwoBits<L, width>, width, 1, Part::kMin, 8> {
        static inline Super super(const PackedTwoBits<L, width>& p) {
            const Float d = V::halves(p.d);
            return {d, times(d, -1.0f)};
        }
        static inline void unpack(const PackedTwoBits<L, width>& p, size_t s, const Super& super,
                                  Weights<V>& w) {
            unpack_fields<V>(p.q[s], w.q);
            w.scale[0] = super.d;
            w.min[0] = super.m;
        }
    };
};

}  // namespace
}  // namespace tektra
