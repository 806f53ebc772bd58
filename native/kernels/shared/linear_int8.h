// Quantized linear layers on int8 activations, for any set of vector instructions.
//
// An instruction set describes its vectors in a struct V (see below) and calls fill_int8<V>. All
// here has internal linkage, so every set compiles a copy of its own with its own flags, and no
// inline function is shared between sets.
//
// A register holds four elements of all rows of a group; its dot product with four activations,
// broadcast, gives an int32 a row. Products of 16 elements are added as integers, multiplied by
// the factor of the activations, and added to the rows' float sums with the scales of the block,
// which are vectors as well. A block of weights is unpacked once for up to kMaxRows activation
// rows, whose sums wait in the first-level cache meanwhile. Each row's own sequence of operations
// is the same whatever the number of rows, so batch and single results are equal to the bit.
//
// V has:
//   kLanes            floats in a vector, which is rows in a group
//   kSignedProducts   whether it multiplies signed weights (otherwise they get an offset)
//   Int, Float        a vector of bytes or int32, a vector of floats
//   load(p), splat8(byte), and_(a, b), or_and(a, b, c) = a | b & c, xor_(a, b), right<n>(v) 16-bit
//   table(p), look_up(table, v)   16 bytes, and those of them that bytes of v (0 .. 15) are the
//                     numbers of
//   halves(p)         kLanes binary16 as floats
//   e8m0_halves(p)    kLanes E8M0 scales as floats, halved; those below 2^-126 may be 0
//   widen(p)          kLanes (u)int8 as floats
//   dot32<F>(q, a)    sum over the 32 elements of block a of factor * q * x, as floats
//   dot16<F>(q, a, h) the same over half h, from its four registers; plus a.centre[h] for formats
//                     whose part is kCentre
//   splat(f), mul(a, b), fmadd(a, b, c), add(a, b), zero(), load_floats(p), store(p, v)
// and, where an instruction takes two activation rows at once:
//   Pairs, pair_up(q)           the weights as that instruction wants them
//   dots32<F>(p, a, b, dots)    dots[0], dots[1] = dot32 of blocks a and b, to the bit
//   dots16<F>(p, a, b, h, dots) the same of dot16
#pragma once

#include <cstring>

#include "unpack_int8.h"

namespace tektra {
namespace {

constexpr size_t kSub = kActivationBlock;  // elements between two additions to the float sums
constexpr size_t kMaxRows = 16;            // activation rows that share the unpacking of a block

template <class V>
concept TakesPairs = requires { typename V::Pairs; };

// Adds the products of one row, of all 32 elements or of half h, to its sum.
template <class V, class F>
inline typename V::Float add_products(const Weights<V>& w, const ActivationBlock& a, int h,
                                      typename V::Float dot, typename V::Float sum) {
    sum = V::fmadd(dot, w.scale[h], sum);
    if constexpr (F::kPart == Part::kMin) {
        sum = V::fmadd(w.min[h], V::splat(F::kScales == 1 ? a.total : a.centre[h]), sum);
    }
    return sum;
}

template <class V, class F>
inline typename V::Float accumulate(const Weights<V>& w, const ActivationBlock& a,
                                    typename V::Float sum) {
    if constexpr (F::kScales == 1) {
        sum = add_products<V, F>(w, a, 0, V::template dot32<F>(w.q, a), sum);
    } else {
        for (int h = 0; h < F::kScales; ++h) {
            sum = add_products<V, F>(w, a, h, V::template dot16<F>(w.q + 4 * h, a, h), sum);
        }
    }
    return sum;
}

template <class V, class F>
inline void accumulate_two(const Weights<V>& w, const typename V::Pairs& pairs,
                           const ActivationBlock& a, const ActivationBlock& b,
                           typename V::Float* sums) {
    typename V::Float dots[2];
    for (int h = 0; h < F::kScales; ++h) {
        if constexpr (F::kScales == 1) {
            V::template dots32<F>(pairs, a, b, dots);
        } else {
            V::template dots16<F>(pairs, a, b, h, dots);
        }
        sums[0] = add_products<V, F>(w, a, h, dots[0], sums[0]);
        sums[1] = add_products<V, F>(w, b, h, dots[1], sums[1]);
    }
}

inline const ActivationBlock& block_at(const uint8_t* x) {
    return *reinterpret_cast<const ActivationBlock*>(x);
}

template <class V>
inline void finish_row(const LinearTask& t, size_t group, size_t row, typename V::Float sum) {
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

inline void prefetch_to_write(const float* at) {
#if defined(__GNUC__)
    __builtin_prefetch(at, 1);
#else
    (void)at;
#endif
}

// Asks for the weights of a sub-block that comes some kilobytes later.
template <class V, class F>
inline void prefetch_weights(const typename F::Packed* block, size_t s) {
#if defined(__GNUC__)
    constexpr size_t kAhead = 256 * V::kLanes;
    constexpr size_t kBytes = sizeof(typename F::Packed) / (F::kWidth / kSub);
    const char* at = reinterpret_cast<const char*>(block) + kAhead + s * kBytes;
    for (size_t line = 0; line < kBytes; line += 64) __builtin_prefetch(at + line);
#else
    (void)block;
    (void)s;
#endif
}

// One group of matrix rows times `n` quantized rows, which are rows / t.terms rows of the output.
// kRows is n, or 0 where n is known at run time only.
template <class V, class F, size_t kRows>
inline void tile(const LinearTask& t, size_t group, size_t row, size_t num_rows) {
    using Packed = typename F::Packed;
    const size_t n = kRows != 0 ? kRows : num_rows * t.terms;
    const size_t stride = t.x_stride / t.terms;
    const size_t blocks = t.width / F::kWidth;
    const auto* packed = reinterpret_cast<const Packed*>(t.weights) + group * blocks;
    const uint8_t* first = t.x + row * t.x_stride;
    typename V::Float sums[kRows != 0 ? kRows : kMaxRows];
    for (size_t r = 0; r < n; ++r) sums[r] = V::zero();
    const uint8_t* at = first;
    if constexpr (kRows == 0) {
        // other cores may hold these lines: without this the stores at the end wait for them
        for (size_t i = 0; i < num_rows; ++i) {
            prefetch_to_write(t.out + (row + i) * t.out_stride + group * V::kLanes);
        }
    }
    for (size_t b = 0; b < blocks; ++b) {
        const auto super = F::super(packed[b]);
        for (size_t s = 0; s < F::kWidth / kSub; ++s, at += sizeof(ActivationBlock)) {
            // One row at a time reads a stream that the processor sees by itself; among the lines
            // of many rows it does not.
            if constexpr (kRows == 0) prefetch_weights<V, F>(packed + b, s);
            Weights<V> w;
            F::unpack(packed[b], s, super, w);
            const uint8_t* x = at;
            size_t r = 0;
            if constexpr (TakesPairs<V> && kRows != 1) {
                const auto pairs = V::pair_up(w.q);
                for (; r + 1 < n; r += 2, x += 2 * stride) {
                    accumulate_two<V, F>(w, pairs, block_at(x), block_at(x + stride), sums + r);
                }
            }
            for (; r < n; ++r, x += stride) sums[r] = accumulate<V, F>(w, block_at(x), sums[r]);
        }
    }
    for (size_t i = 0, r = 0; i < n / t.terms; ++i) {
        auto sum = V::zero();
        for (size_t term = 0; term < t.terms; ++term, ++r) {
            float d;  // behind the blocks
            std::memcpy(&d, at + r * stride, sizeof d);
            sum = term == 0 ? V::mul(sums[r], V::splat(d)) : V::fmadd(sums[r], V::splat(d), sum);
        }
        finish_row<V>(t, group, row + i, sum);
    }
}

template <class V, class F>
void run(const LinearTask& t) {
    const size_t rows = t.num_rows * t.terms;
    if (rows == 1) {
        for (size_t g = t.group_begin; g < t.group_end; ++g) tile<V, F, 1>(t, g, 0, 1);
        return;
    }
    if (rows == 2) {
        for (size_t g = t.group_begin; g < t.group_end; ++g) tile<V, F, 2>(t, g, 0, t.num_rows);
        return;
    }
    // groups that stay in the second-level cache while all rows pass over them
    constexpr size_t kChunkBytes = 384 * 1024;
    const size_t group_bytes = t.width / F::kWidth * sizeof(typename F::Packed);
    const size_t chunk = group_bytes >= kChunkBytes ? 1 : kChunkBytes / group_bytes;
    const size_t share = kMaxRows / t.terms;
    for (size_t begin = t.group_begin; begin < t.group_end; begin += chunk) {
        const size_t end = begin + chunk < t.group_end ? begin + chunk : t.group_end;
        for (size_t row = 0; row < t.num_rows; row += share) {
            const size_t n = t.num_rows - row < share ? t.num_rows - row : share;
            for (size_t g = begin; g < end; ++g) tile<V, F, 0>(t, g, row, n);
        }
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
    entry(WeightType::IQ2_XXS, run<V, typename F::IQ2_XXS>);
    entry(WeightType::IQ2_XS, run<V, typename F::IQ2_S>);
    entry(WeightType::IQ2_S, run<V, typename F::IQ2_S>);
    entry(WeightType::IQ3_XXS, run<V, typename F::IQ3_XXS>);
    entry(WeightType::IQ3_S, run<V, typename F::IQ3_S>);
    entry(WeightType::IQ1_S, run<V, typename F::IQ1_S>);
    entry(WeightType::IQ1_M, run<V, typename F::IQ1_M>);
    entry(WeightType::IQ4_NL, run<V, typename F::IQ4_NL>);
    entry(WeightType::IQ4_XS, run<V, typename F::IQ4_XS>);
    entry(WeightType::TQ1_0, run<V, typename F::template TwoBits<256>>);
    entry(WeightType::TQ2_0, run<V, typename F::template TwoBits<256>>);
    entry(WeightType::MXFP4, run<V, typename F::MXFP4>);
    entry(WeightType::NVFP4, run<V, typename F::NVFP4>);
    entry(WeightType::Q1_0, run<V, typename F::template TwoBits<128>>);
    entry(WeightType::Q2_0, run<V, typename F::template TwoBits<64>>);
}

}  // namespace
}  // namespace tektra
