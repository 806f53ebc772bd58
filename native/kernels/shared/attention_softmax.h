// The middle of attention over a split: from scores to weights, their maximum and their sum, for
// any set of vector instructions. Scores of either kind of cache come here.
//
// All here has internal linkage: every set compiles a copy of its own. V has:
//   kLanes            floats in a vector
//   Float             a vector
//   load(p), store(p, v), splat(f), zero()
//   mul(a, b), add(a, b), sub(a, b), max(a, b), fmadd(a, b, c)
//   power(v)          2 to the power n, where v is 1.5 * 2^23 + 127 + n; 0 for n = -127
//   soft_cap(v, cap)
//   only(v, at, first, last, other)   `other` in the lanes whose position, from `at` on, is outside
//   sum_lanes(v), max_lanes(v)
//   fetch(p)          into the second-level cache
#pragma once

#include <cstring>
#include <limits>

#include "tektra/kernel_table.h"

// Loops over a tile: GCC 12 keeps the sums in memory where it unrolls one of them too late.
#if defined(__GNUC__)
#define TEKTRA_UNROLL _Pragma("GCC unroll 8")
#else
#define TEKTRA_UNROLL
#endif

namespace tektra {
namespace {

constexpr size_t kLine = 64;  // bytes that memory is fetched in
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// 2 to the power x <= 0 to about 1 ulp: x = n + r with |r| <= 1/2, a polynomial in r (minimax of
// degree 6, relative error 2e-9 before rounding), times 2^n; 0 below -126.5.
template <class V>
inline typename V::Float exp2(typename V::Float x) {
    const auto shift = V::splat(12582912.0f + 127.0f);  // adding it rounds to a whole number
    x = V::max(V::splat(-127.0f), x);                   // in this order a NaN stays one
    const auto shifted = V::add(x, shift);
    const auto r = V::sub(x, V::sub(shifted, shift));
    auto p = V::splat(0.00015345812f);
    p = V::fmadd(p, r, V::splat(0.00133999309f));
    p = V::fmadd(p, r, V::splat(0.00961848907f));
    p = V::fmadd(p, r, V::splat(0.0555032864f));
    p = V::fmadd(p, r, V::splat(0.240226462f));
    p = V::fmadd(p, r, V::splat(0.693147182f));
    p = V::fmadd(p, r, V::splat(1.0f));
    return V::mul(p, V::power(shifted));
}

// Places in a block.
constexpr float kPlaces[kKvBlock] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                     11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                     22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

template <class V>
struct Softmax {
    static constexpr size_t kL = V::kLanes;
    static constexpr int kVectors = kKvBlock / kL;  // of scores in a block
    using Float = typename V::Float;

    // [lo, hi) of a block that query i sees
    struct Range {
        int lo, hi;
    };
    static inline Range range_of(const AttentionTask& t, size_t i, size_t block) {
        const int start = static_cast<int>(block * kKvBlock);
        const int lo = t.first[i] - start, hi = t.last[i] - start;
        return {lo > 0 ? lo : 0, hi < static_cast<int>(kKvBlock) ? hi : static_cast<int>(kKvBlock)};
    }
    static inline bool sees(const AttentionTask& t, size_t i, size_t num, size_t block) {
        for (size_t k = i; k < i + num; ++k) {
            const Range r = range_of(t, k, block);
            if (r.lo < r.hi) return true;
        }
        return false;
    }

    // What is to be fetched while the `index`th of the blocks of keys and then of values is read.
    static inline const uint8_t* ahead_of(const AttentionTask& t, size_t index) {
        const size_t n = t.num_blocks, ahead = index + kFetchAhead;
        if (ahead < n) return t.keys[ahead];
        if (ahead < 2 * n) return t.values[ahead - n];
        return ahead - 2 * n < t.num_next ? t.next[ahead - 2 * n] : t.keys[0];
    }

    // From products to weights, maximum and sum of a query.
    static inline void weigh(const AttentionTask& t, size_t i, float* scores) {
        const int first = t.first[i], last = t.last[i];
        if (first >= last) {
            t.maximum[i] = -kInfinity;
            t.sum[i] = 0.0f;
            return;
        }
        // whole blocks: which lanes are added up must not depend on how much is seen
        constexpr int kBlock = static_cast<int>(kKvBlock), kStep = static_cast<int>(kL);
        const int begin = first / kBlock * kBlock, end = (last + kBlock - 1) / kBlock * kBlock;
        const float softcap = t.softcap;
        const Float inner = V::splat(t.scale);
        const Float scale = V::splat(softcap == 0.0f ? t.scale * kLog2E : kLog2E);
        Float largest[kVectors];
        for (Float& l : largest) l = V::splat(-kInfinity);
        for (int at = begin; at < end; at += kBlock) {
            const bool partly = at < first || at + kBlock > last;
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                Float s = V::load(scores + at + kStep * v);
                if (softcap != 0.0f) s = V::soft_cap(V::mul(s, inner), softcap);
                s = V::mul(s, scale);
                if (t.slopes != nullptr) {
                    const Float place = V::add(V::load(kPlaces + kStep * v),
                                               V::splat(static_cast<float>(at - t.at[i])));
                    const Float distance = V::max(place, V::sub(V::zero(), place));
                    s = V::fmadd(distance, V::splat(-kLog2E * t.slopes[i]), s);
                }
                if (partly) s = V::only(s, at + kStep * v, first, last, V::splat(-kInfinity));
                V::store(scores + at + kStep * v, s);
                largest[v] = V::max(largest[v], s);
            }
        }
        for (int v = 1; v < kVectors; ++v) largest[0] = V::max(largest[0], largest[v]);
        const float maximum = V::max_lanes(largest[0]);
        const Float shift = V::splat(maximum);
        Float total[kVectors];
        for (Float& sum : total) sum = V::zero();
        for (int at = begin; at < end; at += kBlock) {
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Float s = V::load(scores + at + kStep * v);
                const Float w = exp2<V>(V::sub(s, shift));
                V::store(scores + at + kStep * v, w);
                total[v] = V::add(total[v], w);
            }
        }
        for (int v = 1; v < kVectors; ++v) total[0] = V::add(total[0], total[v]);
        t.maximum[i] = maximum;
        t.sum[i] = V::sum_lanes(total[0]);
    }
};

}  // namespace
}  // namespace tektra
