// Attention over a cache of binary16 or float32, in float32, for any set of vector instructions.
//
// A split of the context goes through three passes. Scores: keys lie transposed, so those of a
// block are computed side by side, without a horizontal sum. Weights: maximum, exponentials and
// their sum. Values: weighted sums along the positions, in order. Queries go in tiles that share
// each load; a query's own operations are the same in any tile. Where many queries share a block
// it becomes floats once, otherwise while it is read, and then the next block is fetched early:
// blocks are scattered, so no hardware would guess it.
//
// V has, beside what attention_softmax.h wants:
//   kTile             queries that are computed together, kWide vectors of a value beside them;
//                     registers decide
//   load(p)           also from binary16
//   single(p)         one float or binary16
#pragma once

#include "attention_softmax.h"

namespace tektra {
namespace {

template <class V>
struct FloatAttention : Softmax<V> {
    using Base = Softmax<V>;
    using Range = typename Base::Range;
    using Base::kL, Base::kVectors, Base::range_of, Base::sees;
    static constexpr int kTile = V::kTile;
    // Queries from which on a block is made floats beforehand: it would be converted once a tile.
    static constexpr size_t kConvertAt = 2 * kTile + 1;
    using Float = typename V::Float;

    // Products of kQueries queries and the 32 keys of a block.
    template <int kQueries, class Element>
    static inline void score(const float* const* queries, const Element* keys, size_t head_dim,
                             float* scores, const uint8_t* ahead) {
        Float sums[kQueries][kVectors];
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) sums[i][v] = V::zero();
        }
        for (size_t d = 0; d < head_dim; ++d) {
            if constexpr (sizeof(Element) == sizeof(half_t)) V::fetch(ahead + kLine * d);
            Float q[kQueries];
            TEKTRA_UNROLL
            for (int i = 0; i < kQueries; ++i) q[i] = V::splat(queries[i][d]);
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Float key = V::load(keys + d * kKvBlock + kL * v);
                TEKTRA_UNROLL
                for (int i = 0; i < kQueries; ++i) sums[i][v] = V::fmadd(q[i], key, sums[i][v]);
            }
        }
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) V::store(scores + i * kSplit + kL * v, sums[i][v]);
        }
    }
    static_assert(kKvBlock * sizeof(half_t) == kLine, "the keys of an element are a line");

    template <int kQueries, class Element>
    static inline size_t score_tiles(const AttentionTask& t, size_t i, size_t block,
                                     const Element* keys, float* scores, const uint8_t* ahead) {
        for (; i + kQueries <= t.num_queries; i += kQueries) {
            if (!sees(t, i, kQueries, block)) continue;
            score<kQueries>(t.queries + i, keys, t.head_dim, scores + i * kSplit, ahead);
        }
        if constexpr (kQueries > 1) {
            return score_tiles<(kQueries + 1) / 2>(t, i, block, keys, scores, ahead);
        }
        return i;
    }

    // out += weights * values at the positions [r.lo, r.hi) of a block, for kCount vectors of
    // kQueries queries.
    template <int kQueries, int kCount, class Element>
    static inline void add_vectors(const float* weights, Range r, const Element* values,
                                   size_t value_dim, float* out, const uint8_t* ahead) {
        Float sums[kQueries][kCount];
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) sums[i][v] = V::load(out + i * value_dim + kL * v);
        }
        for (int j = r.lo; j < r.hi; ++j) {
            const Element* value = values + static_cast<size_t>(j) * value_dim;
            if constexpr (sizeof(Element) == sizeof(half_t) && kCount > 1) {
                const uint8_t* line = ahead + static_cast<size_t>(j) * value_dim * sizeof(half_t);
                for (size_t b = 0; b < kCount * kL * sizeof(half_t); b += kLine) V::fetch(line + b);
            }
            Float w[kQueries];
            TEKTRA_UNROLL
            for (int i = 0; i < kQueries; ++i) w[i] = V::splat(weights[i * kSplit + j]);
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) {
                const Float loaded = V::load(value + kL * v);
                TEKTRA_UNROLL
                for (int i = 0; i < kQueries; ++i) sums[i][v] = V::fmadd(w[i], loaded, sums[i][v]);
            }
        }
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) V::store(out + i * value_dim + kL * v, sums[i][v]);
        }
    }

    template <int kQueries, class Element>
    static inline void add_values(const float* weights, Range r, const Element* values,
                                  size_t value_dim, float* out, const uint8_t* ahead) {
        if (r.lo >= r.hi) return;
        constexpr size_t kWidth = V::kWide * kL;
        size_t d = 0;
        for (; d + kWidth <= value_dim; d += kWidth) {
            add_vectors<kQueries, V::kWide>(weights, r, values + d, value_dim, out + d,
                                            ahead + d * sizeof(half_t));
        }
        for (; d + kL <= value_dim; d += kL) {
            add_vectors<kQueries, 1>(weights, r, values + d, value_dim, out + d, ahead);
        }
        for (; d < value_dim; ++d) {
            for (int i = 0; i < kQueries; ++i) {
                float sum = out[i * value_dim + d];
                for (int j = r.lo; j < r.hi; ++j) {
                    sum += weights[i * kSplit + j] *
                           V::single(values + static_cast<size_t>(j) * value_dim + d);
                }
                out[i * value_dim + d] = sum;
            }
        }
    }

    // A tile goes together where all of it sees the block, and query by query before and after:
    // what a query does not see may be anything, also not a number.
    template <int kQueries, class Element>
    static inline size_t add_tiles(const AttentionTask& t, size_t i, size_t block,
                                   const Element* values, const float* weights,
                                   const uint8_t* ahead) {
        for (; i + kQueries <= t.num_queries; i += kQueries) {
            const float* w = weights + i * kSplit;
            float* out = t.values_sum + i * t.value_dim;
            Range all = range_of(t, i, block);
            if constexpr (kQueries == 1) {
                add_values<1>(w, all, values, t.value_dim, out, ahead);
                continue;
            }
            bool same = true;
            for (int k = 1; k < kQueries; ++k) {
                const Range r = range_of(t, i + k, block);
                same &= r.lo == all.lo && r.hi == all.hi;
                all = {r.lo > all.lo ? r.lo : all.lo, r.hi < all.hi ? r.hi : all.hi};
            }
            const bool none = all.lo >= all.hi;
            for (int k = 0; !same && k < kQueries; ++k) {
                Range r = range_of(t, i + k, block);
                if (!none) r.hi = all.lo;
                add_values<1>(w + k * kSplit, r, values, t.value_dim, out + k * t.value_dim, ahead);
            }
            if (!none) add_values<kQueries>(w, all, values, t.value_dim, out, ahead);
            for (int k = 0; !same && !none && k < kQueries; ++k) {
                const Range r = {all.hi, range_of(t, i + k, block).hi};
                add_values<1>(w + k * kSplit, r, values, t.value_dim, out + k * t.value_dim, ahead);
            }
        }
        if constexpr (kQueries > 1) {
            return add_tiles<(kQueries + 1) / 2>(t, i, block, values, weights, ahead);
        }
        return i;
    }

    template <class Element>
    static inline void to_floats(const Element* from, size_t n, float* to, const uint8_t* ahead) {
        size_t i = 0;
        for (; i + kL <= n; i += kL) {
            if (i % (kLine / sizeof(half_t)) == 0) V::fetch(ahead + i * sizeof(half_t));
            V::store(to + i, V::load(from + i));
        }
        for (; i < n; ++i) to[i] = V::single(from + i);
    }

    // Over a cache of Element, which is half_t or float.
    template <class Element>
    static void run(const AttentionTask& t) {
        float* scores = t.scratch;
        float* floats = scores + t.num_queries * kSplit;
        const bool convert = sizeof(Element) != sizeof(float) && t.num_queries >= kConvertAt;
        const size_t b_last = t.num_blocks - 1;
        for (size_t b = 0; b <= b_last; ++b) {
            const uint8_t* ahead = Base::ahead_of(t, b);
            const auto* keys = reinterpret_cast<const Element*>(t.keys[b]);
            float* at = scores + b * kKvBlock;
            if (convert) {
                to_floats(keys, kKvBlock * t.head_dim, floats, ahead);
                score_tiles<kTile, float>(t, 0, b, floats, at, ahead);
            } else {
                score_tiles<kTile>(t, 0, b, keys, at, ahead);
            }
        }
        for (size_t i = 0; i < t.num_queries; ++i) Base::weigh(t, i, scores + i * kSplit);
        std::memset(t.values_sum, 0, t.num_queries * t.value_dim * sizeof(float));
        for (size_t b = 0; b <= b_last; ++b) {
            const auto* values = reinterpret_cast<const Element*>(t.values[b]);
            const uint8_t* ahead = Base::ahead_of(t, t.num_blocks + b);
            const float* at = scores + b * kKvBlock;
            if (convert) {
                to_floats(values, kKvBlock * t.value_dim, floats, ahead);
                add_tiles<kTile, float>(t, 0, b, floats, at, ahead);
            } else {
                add_tiles<kTile>(t, 0, b, values, at, ahead);
            }
        }
    }
};

}  // namespace
}  // namespace tektra
