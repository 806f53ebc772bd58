// Quantized linear layers on int8 activations, for any set of vector instructions.
//
// An instruction set describes its vectors in a struct V (see below) and calls fill_int8<V>. All
// here has internal linkage, so every set compiles a copy of its own with its own flags, and no
// inline function is shared between sets.
//
// A register holds four elements of all rows of a group; its dot product with four activations,
// broadcast, gives an int32 a row. The products of 16 elements are added as integers, converted,
// and added to the rows' float sums with the scales of the block, which are vectors as well.
// Several activation rows share the unpacking of a block. Each row's own sequence of operations is
// the same whatever the number of rows, so batch and single results are equal to the bit.
//
// V has:
//   kLanes            floats in a vector, which is rows in a group
//   kTile             activation rows that are computed together; registers decide
//   kSignedProducts   whether dot() multiplies signed weights (otherwise they get an offset)
//   Int, Float        a vector of bytes or int32, a vector of floats
//   load(p), splat8(byte), and_(a, b), or_(a, b), xor_(a, b), left<n>(v), right<n>(v)  16-bit
//   shifts halves(p)         kLanes binary16 as floats widen(p)          kLanes (u)int8 as floats
//   dot<chain, signed>(q, x)   int32: four registers times the 16 activations at x. `chain` is how
//                     many products of pairs fit an int16 together
//   to_float(v), splat(f), mul(a, b), fmadd(a, b, c), zero()
//   load_floats(p), store(p, v), add(a, b)
#pragma once

#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "tektra/kernel_table.h"

namespace tektra {
namespace {

constexpr size_t kSub = 32;  // elements between two additions to the float sums

template <class V>
struct Weights {
    typename V::Int q[8];
    typename V::Float scale[2];
    typename V::Float min[2];
};

// The formats: packed block, width, how many scales 32 elements have, whether there is a constant
// part (min), whether q is signed, how many products of pairs (at most 2 * 127 * largest q each)
// can be added in an int16, and the unpacking.
template <class V>
struct Formats {
    static constexpr int L = V::kLanes;
    using Int = typename V::Int;
    using Float = typename V::Float;

    static inline void nibbles(const Nibbles<L>& packed, Int* q) {
        const Int mask = V::splat8(15);
        for (int j = 0; j < 4; ++j) {
            const Int both = V::load(packed[j]);
            q[j] = V::and_(both, mask);
            q[j + 4] = V::and_(V::template right<4>(both), mask);
        }
    }

    // q[j] |= bit j of each byte << kTo
    template <int kTo, int j = 0>
    static inline void add_bits(const Bits<L>& packed, Int* q) {
        const Int bits = V::load(packed);
        Int moved;
        if constexpr (j <= kTo) {
            moved = V::template left<kTo - j>(bits);
        } else {
            moved = V::template right<j - kTo>(bits);
        }
        q[j] = V::or_(q[j], V::and_(moved, V::splat8(1 << kTo)));
        if constexpr (j < 7) add_bits<kTo, j + 1>(packed, q);
    }

    static inline void pairs(const BitPairs<L>& packed, Int* q) {
        const Int mask = V::splat8(3);
        for (int h = 0; h < 2; ++h) {
            const Int four = V::load(packed[h]);
            q[4 * h] = V::and_(four, mask);
            q[4 * h + 1] = V::and_(V::template right<2>(four), mask);
            q[4 * h + 2] = V::and_(V::template right<4>(four), mask);
            q[4 * h + 3] = V::and_(V::template right<6>(four), mask);
        }
    }

    // q[j] |= pair of bits << 4
    static inline void add_pairs(const BitPairs<L>& packed, Int* q) {
        const Int mask = V::splat8(0x30);
        for (int h = 0; h < 2; ++h) {
            const Int four = V::load(packed[h]);
            const Int moved[4] = {V::template left<4>(four), V::template left<2>(four), four,
                                  V::template right<2>(four)};
            for (int s = 0; s < 4; ++s)
                q[4 * h + s] = V::or_(q[4 * h + s], V::and_(moved[s], mask));
        }
    }

    static inline Float times(Float v, float factor) { return V::mul(v, V::splat(factor)); }

    template <class PackedBlock, size_t width, int scales, bool min, int chain>
    struct Form {
        using Packed = PackedBlock;
        static constexpr size_t kWidth = width;
        static constexpr int kScales = scales;
        static constexpr bool kMin = min;
        static constexpr bool kSigned = false;
        static constexpr int kChain = chain;
    };

    // 8 * 2 * 127 * 15 = 30480
    struct Q4_0 : Form<PackedQ4_0<L>, kLegacyWidth, 1, true, 8> {
        static inline void unpack(const PackedQ4_0<L>& p, size_t, Weights<V>& w) {
            nibbles(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = times(w.scale[0], -8.0f);
        }
    };

    struct Q4_1 : Form<PackedQ4_1<L>, kLegacyWidth, 1, true, 8> {
        static inline void unpack(const PackedQ4_1<L>& p, size_t, Weights<V>& w) {
            nibbles(p.q, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = V::halves(p.m);
        }
    };

    // 4 * 2 * 127 * 31 = 31496
    struct Q5_0 : Form<PackedQ5_0<L>, kLegacyWidth, 1, true, 4> {
        static inline void unpack(const PackedQ5_0<L>& p, size_t, Weights<V>& w) {
            nibbles(p.q, w.q);
            add_bits<4>(p.high, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = times(w.scale[0], -16.0f);
        }
    };

    struct Q5_1 : Form<PackedQ5_1<L>, kLegacyWidth, 1, true, 4> {
        static inline void unpack(const PackedQ5_1<L>& p, size_t, Weights<V>& w) {
            nibbles(p.q, w.q);
            add_bits<4>(p.high, w.q);
            w.scale[0] = V::halves(p.d);
            w.min[0] = V::halves(p.m);
        }
    };

    // 2 * 127 * 128 = 32512; where products are unsigned, q + 128 is multiplied and 128 d taken off
    struct Q8_0 : Form<PackedQ8_0<L>, kLegacyWidth, 1, !V::kSignedProducts, 1> {
        static constexpr bool kSigned = true;
        static inline void unpack(const PackedQ8_0<L>& p, size_t, Weights<V>& w) {
            for (int j = 0; j < 8; ++j) {
                w.q[j] = V::load(p.q[j]);
                if constexpr (!V::kSignedProducts) w.q[j] = V::xor_(w.q[j], V::splat8(-128));
            }
            w.scale[0] = V::halves(p.d);
            if constexpr (!V::kSignedProducts) w.min[0] = times(w.scale[0], -128.0f);
        }
    };

    // 8 * 2 * 127 * 3
    struct Q2_K : Form<PackedQ2_K<L>, kSuperWidth, 2, true, 8> {
        static inline void unpack(const PackedQ2_K<L>& p, size_t s, Weights<V>& w) {
            pairs(p.q[s], w.q);
            const Float d = V::halves(p.d), dmin = times(V::halves(p.dmin), -1.0f);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(d, V::widen(p.scale[2 * s + h]));
                w.min[h] = V::mul(dmin, V::widen(p.min[2 * s + h]));
            }
        }
    };

    // 8 * 2 * 127 * 7 = 14224
    struct Q3_K : Form<PackedQ3_K<L>, kSuperWidth, 2, true, 8> {
        static inline void unpack(const PackedQ3_K<L>& p, size_t s, Weights<V>& w) {
            pairs(p.q[s], w.q);
            add_bits<2>(p.high[s], w.q);
            const Float d = V::halves(p.d);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(d, V::widen(p.scale[2 * s + h]));
                w.min[h] = times(w.scale[h], -4.0f);
            }
        }
    };

    struct Q4_K : Form<PackedQ4_K<L>, kSuperWidth, 1, true, 8> {
        static inline void unpack(const PackedQ4_K<L>& p, size_t s, Weights<V>& w) {
            nibbles(p.q[s], w.q);
            w.scale[0] = V::mul(V::halves(p.d), V::widen(p.scale[s]));
            w.min[0] = times(V::mul(V::halves(p.dmin), V::widen(p.min[s])), -1.0f);
        }
    };

    struct Q5_K : Form<PackedQ5_K<L>, kSuperWidth, 1, true, 4> {
        static inline void unpack(const PackedQ5_K<L>& p, size_t s, Weights<V>& w) {
            nibbles(p.q[s], w.q);
            add_bits<4>(p.high[s], w.q);
            w.scale[0] = V::mul(V::halves(p.d), V::widen(p.scale[s]));
            w.min[0] = times(V::mul(V::halves(p.dmin), V::widen(p.min[s])), -1.0f);
        }
    };

    // 2 * 2 * 127 * 63 = 32004
    struct Q6_K : Form<PackedQ6_K<L>, kSuperWidth, 2, true, 2> {
        static inline void unpack(const PackedQ6_K<L>& p, size_t s, Weights<V>& w) {
            nibbles(p.q[s], w.q);
            add_pairs(p.high[s], w.q);
            const Float d = V::halves(p.d);
            for (int h = 0; h < 2; ++h) {
                w.scale[h] = V::mul(d, V::widen(p.scale[2 * s + h]));
                w.min[h] = times(w.scale[h], -32.0f);
            }
        }
    };
};

template <class V, class F>
inline typename V::Float accumulate(const Weights<V>& w, const int8_t* x, const ActivationScale& a,
                                    typename V::Float sum) {
    using Float = typename V::Float;
    const Float low = V::to_float(V::template dot<F::kChain, F::kSigned>(w.q, x));
    const Float high = V::to_float(V::template dot<F::kChain, F::kSigned>(w.q + 4, x + 16));
    const Float scale_low = V::splat(a.scale[0]), scale_high = V::splat(a.scale[1]);
    if constexpr (F::kScales == 1) {
        sum = V::fmadd(V::fmadd(high, scale_high, V::mul(low, scale_low)), w.scale[0], sum);
        if constexpr (F::kMin) sum = V::fmadd(w.min[0], V::splat(a.total), sum);
    } else {
        sum = V::fmadd(V::mul(low, w.scale[0]), scale_low, sum);
        sum = V::fmadd(V::mul(high, w.scale[1]), scale_high, sum);
        if constexpr (F::kMin) {
            sum = V::fmadd(w.min[0], V::splat(a.sum[0]), sum);
            sum = V::fmadd(w.min[1], V::splat(a.sum[1]), sum);
        }
    }
    return sum;
}

template <class V>
inline void finish_rows(const LinearTask& t, size_t group, size_t row, typename V::Float sum) {
    const size_t column = group * V::kLanes;
    float* out = t.out + row * t.out_stride + column;
    const float* addend = t.addend != nullptr ? t.addend + row * t.addend_stride + column : nullptr;
    if (column + V::kLanes <= t.out_width) {
        if (t.bias != nullptr) sum = V::add(sum, V::load_floats(t.bias + column));
        if (addend != nullptr) sum = V::add(sum, V::load_floats(addend));
        V::store(out, sum);
        return;
    }
    float values[V::kLanes];
    V::store(values, sum);
    for (size_t lane = 0; column + lane < t.out_width; ++lane) {
        float value = values[lane];
        if (t.bias != nullptr) value += t.bias[column + lane];
        if (addend != nullptr) value += addend[lane];
        out[lane] = value;
    }
}

// One group of matrix rows times kRows activation rows.
template <class V, class F, int kRows>
inline void tile(const LinearTask& t, size_t group, size_t row) {
    using Packed = typename F::Packed;
    const size_t blocks = t.width / F::kWidth;
    const auto* packed = reinterpret_cast<const Packed*>(t.weights) + group * blocks;
    const int8_t* x[kRows];
    const ActivationScale* scales[kRows];
    typename V::Float sums[kRows];
    for (int r = 0; r < kRows; ++r) {
        x[r] = reinterpret_cast<const int8_t*>(t.x + (row + r) * t.x_stride);
        scales[r] = reinterpret_cast<const ActivationScale*>(x[r] + t.width);
        sums[r] = V::zero();
    }
    size_t at = 0;
    for (size_t b = 0; b < blocks; ++b) {
#if defined(__x86_64__) || defined(_M_X64)
        if constexpr (kRows == 1) {
            // one row reads the weights once, as fast as memory gives them
            const char* ahead = reinterpret_cast<const char*>(packed + b) + 2048;
            for (size_t line = 0; line < sizeof(Packed); line += 64) {
                _mm_prefetch(ahead + line, _MM_HINT_T0);
            }
        }
#endif
        for (size_t s = 0; s < F::kWidth / kSub; ++s, ++at) {
            Weights<V> w;
            F::unpack(packed[b], s, w);
            for (int r = 0; r < kRows; ++r) {
                sums[r] = accumulate<V, F>(w, x[r] + at * kSub, scales[r][at], sums[r]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) finish_rows<V>(t, group, row + r, sums[r]);
}

// The rows that are left when whole tiles are done: fewer than kRows + 1.
template <class V, class F, int kRows>
inline void rest(const LinearTask& t, size_t group, size_t row) {
    if constexpr (kRows > 0) {
        if (t.num_rows - row == kRows) {
            tile<V, F, kRows>(t, group, row);
        } else {
            rest<V, F, kRows - 1>(t, group, row);
        }
    }
}

template <class V, class F>
void run(const LinearTask& t) {
    // a chunk of weights stays in the first-level cache while all rows pass over it
    constexpr size_t kChunkBytes = 16 * 1024;
    const size_t group_bytes = t.width / F::kWidth * sizeof(typename F::Packed);
    const size_t chunk =
        t.num_rows == 1 || group_bytes >= kChunkBytes ? 1 : kChunkBytes / group_bytes;
    for (size_t begin = t.group_begin; begin < t.group_end; begin += chunk) {
        const size_t end = begin + chunk < t.group_end ? begin + chunk : t.group_end;
        size_t row = 0;
        for (; row + V::kTile <= t.num_rows; row += V::kTile) {
            for (size_t g = begin; g < end; ++g) tile<V, F, V::kTile>(t, g, row);
        }
        for (size_t g = begin; g < end; ++g) rest<V, F, V::kTile - 1>(t, g, row);
    }
}

// Puts the kernels of all quantized types into the table.
template <class V>
void fill_int8(KernelTable& table) {
    auto entry = [&](WeightType type, void (*kernel)(const LinearTask&)) {
        table.linear[static_cast<int>(type)].run = kernel;
    };
    using F = Formats<V>;
    entry(WeightType::Q4_0, run<V, typename F::Q4_0>);
    entry(WeightType::Q4_1, run<V, typename F::Q4_1>);
    entry(WeightType::Q5_0, run<V, typename F::Q5_0>);
    entry(WeightType::Q5_1, run<V, typename F::Q5_1>);
    entry(WeightType::Q8_0, run<V, typename F::Q8_0>);
    entry(WeightType::Q2_K, run<V, typename F::Q2_K>);
    entry(WeightType::Q3_K, run<V, typename F::Q3_K>);
    entry(WeightType::Q4_K, run<V, typename F::Q4_K>);
    entry(WeightType::Q5_K, run<V, typename F::Q5_K>);
    entry(WeightType::Q6_K, run<V, typename F::Q6_K>);
}

}  // namespace
}  // namespace tektra
