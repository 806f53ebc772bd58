// The two ways in which x86-64 multiplies bytes, as linear_int8.h wants dot products, for vectors
// of any size B (vectors256.h, vectors512.h). Internal linkage: each set compiles its own copy.
//
// B has, beside what linear_int8.h lists:
//   splat32(v), no_sum(), add16(a, b), add32(a, b)
//   unsigned_pairs(q, x)    q * x of unsigned q, summed in pairs of neighbours, as int16
//   signed_pairs(q, x)      the same with signed q
//   madd16(a, b)            a * b of int16, summed in pairs of neighbours, as int32
//   interleave(low, high)   int32 sums that fit an int16, side by side as int16: low, high
#pragma once

#include <immintrin.h>

#include "linear_int8.h"

namespace tektra {
namespace {

inline int32_t four_bytes(const void* p) {
    int32_t four;
    std::memcpy(&four, p, sizeof four);
    return four;
}

// Without VNNI: sums of pairs in int16, as many of which are added as the range of the format
// allows; then they are widened and multiplied by the factor of the activations in one go.
template <class B>
struct PairDots : B {
    using typename B::Float;
    using typename B::Int;
    static constexpr bool kSignedProducts = true;

    // int32: factor * (sum of 16 products)
    template <class F>
    static inline Int half(const Int* q, const ActivationBlock& a, int h) {
        constexpr int kCount = 4;
        const Int factor = B::splat32(four_bytes(a.twice[h]));
        Int total = B::no_sum();
        for (int j = 0; j < kCount; j += F::kChain) {
            Int sum = B::no_sum();
            for (int i = j; i < j + F::kChain && i < kCount; ++i) {
                const Int x = B::splat32(four_bytes(a.q + 16 * h + 4 * i));
                Int product;
                if constexpr (F::kSigned) {
                    product = B::signed_pairs(q[i], x);
                } else {
                    product = B::unsigned_pairs(q[i], x);
                }
                sum = i == j ? product : B::add16(sum, product);
            }
            const Int wide = B::madd16(sum, factor);
            total = j == 0 ? wide : B::add32(total, wide);
        }
        return total;
    }

    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = half<F>(q, a, 0), high = half<F>(q + 4, a, 1);
        if constexpr (!F::kHalvesFit) return B::add(B::to_float(low), B::to_float(high));
        return B::to_float(B::add32(low, high));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = B::to_float(half<F>(q, a, h));
        return F::kPart == Part::kCentre ? B::add(sum, B::splat(a.centre[h])) : sum;
    }
};

// With VNNI: V::dot4(sum, q, x) adds four products of unsigned weights and signed activations to
// an int32.
template <class V, class B>
struct QuadDots : B {
    using typename B::Float;
    using typename B::Int;
    static constexpr bool kSignedProducts = false;

    // int32 sum of 16 products
    static inline Int half(const Int* q, const int8_t* x) {
        Int total = B::no_sum();
        for (int i = 0; i < 4; ++i) {
            total = V::dot4(total, q[i], B::splat32(four_bytes(x + 4 * i)));
        }
        return total;
    }

    template <class F>
    static inline Float dot32(const Int* q, const ActivationBlock& a) {
        const Int low = half(q, a.q), high = half(q + 4, a.q + 16);
        if constexpr (F::kSumFitsInt16) {  // both sums side by side, times both factors
            const Int factors = B::splat32(four_bytes(a.factor));
            return B::to_float(B::madd16(B::interleave(low, high), factors));
        }
        return B::fmadd(B::to_float(high), B::splat(a.scale[1]),
                        B::mul(B::to_float(low), B::splat(a.scale[0])));
    }

    template <class F>
    static inline Float dot16(const Int* q, const ActivationBlock& a, int h) {
        const Float sum = B::to_float(half(q, a.q + 16 * h)), scale = B::splat(a.scale[h]);
        return F::kPart == Part::kCentre ? B::fmadd(sum, scale, B::splat(a.centre[h]))
                                         : B::mul(sum, scale);
    }
};

}  // namespace
}  // namespace tektra
