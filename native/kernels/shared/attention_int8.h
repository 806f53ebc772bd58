// Attention over a cache of int8, in integers, for any set of vector instructions.
//
// The passes are those of attention_float.h. Products of keys and of values are integer: queries
// and weights become int16 (15 bits) beforehand, neighbouring elements or positions lie in pairs,
// and one multiply-add takes a pair, so that there are twice as many products an instruction as
// in float32. Sums are exact, whatever their order. Weights take the scale of their value with
// them, and are rounded as a share of the largest of their block.
//
// V has, beside what attention_softmax.h and attention_float.h want:
//   Int               a vector of pairs of int16
//   Sum               a vector of int32, as the compiler knows it: GCC keeps arrays of __m256i in
//                     memory where their elements are not what is computed with
//   pairs(p)          kLanes pairs of int16, from int16 or from int8; store_pairs(p, v)
//   splat_pair(p)     the pair of int16 at p in all lanes
//   dot(a, b, c)      c + the sum of both products of each pair
//   none()            zero
//   to_float(v)
//   store_codes(p, v) floats rounded to nearest, as int16
#pragma once

#include "attention_softmax.h"

namespace tektra {
namespace {

template <class V>
struct Int8Attention : Softmax<V> {
    using Base = Softmax<V>;
    using Range = typename Base::Range;
    using Base::kL, Base::kVectors, Base::range_of, Base::sees;
    static constexpr int kTile = V::kTile;
    // Queries from which on a block is widened beforehand.
    static constexpr size_t kWidenAt = 2 * kTile + 1;
    using Float = typename V::Float;
    using Int = typename V::Int;
    using Sum = typename V::Sum;

    static inline const float* scales(const uint8_t* block, size_t codes) {
        return reinterpret_cast<const float*>(block + codes);
    }

    static inline void fetch_scales(const uint8_t* at) {
        for (size_t b = 0; b < kKvBlock * sizeof(float); b += kLine) V::fetch(at + b);
    }

    // Scores of kQueries queries and the 32 keys of a block.
    template <int kQueries, class Element>
    static inline void score(const float* const* queries, const Element* keys,
                             const float* key_scales, size_t num_pairs, float* scores,
                             const uint8_t* ahead) {
        Sum sums[kQueries][kVectors];
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) sums[i][v] = V::none();
        }
        for (size_t p = 0; p < num_pairs; ++p) {
            if constexpr (sizeof(Element) == 1) V::fetch(ahead + kLine * p);
            Int q[kQueries];
            TEKTRA_UNROLL
            for (int i = 0; i < kQueries; ++i) q[i] = V::splat_pair(queries[i] + p);
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Int key = V::pairs(keys + 2 * (p * kKvBlock + kL * v));
                TEKTRA_UNROLL
                for (int i = 0; i < kQueries; ++i) sums[i][v] = V::dot(q[i], key, sums[i][v]);
            }
        }
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            const Float scale = V::splat(queries[i][num_pairs]);
            TEKTRA_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Float s = V::mul(V::to_float(sums[i][v]), V::load(key_scales + kL * v));
                V::store(scores + i * kSplit + kL * v, V::mul(s, scale));
            }
        }
    }
    static_assert(2 * kKvBlock == kLine, "the keys of a pair of elements are a line");

    template <int kQueries, class Element>
    static inline size_t score_tiles(const AttentionTask& t, size_t i, size_t block,
                                     const Element* keys, const float* key_scales, float* scores,
                                     const uint8_t* ahead) {
        const size_t num_pairs = (t.head_dim + 1) / 2;
        for (; i + kQueries <= t.num_queries; i += kQueries) {
            if (!sees(t, i, kQueries, block)) continue;
            score<kQueries>(t.queries + i, keys, key_scales, num_pairs, scores + i * kSplit, ahead);
        }
        if constexpr (kQueries > 1) {
            return score_tiles<(kQueries + 1) / 2>(t, i, block, keys, key_scales, scores, ahead);
        }
        return i;
    }

    // The weights of a query, times the scales of the values, as int16 in the first half of each
    // block of its scores, and what they count for each; zero where it sees nothing.
    static inline void encode(const AttentionTask& t, size_t i, float* weights, float* units) {
        const int first = t.first[i], last = t.last[i];
        const size_t codes = kKvBlock * t.value_dim;
        for (size_t b = 0; b < t.num_blocks; ++b) {
            float* w = weights + b * kKvBlock;
            auto* out = reinterpret_cast<int16_t*>(w);
            const int at = static_cast<int>(b * kKvBlock);
            const int end = at + static_cast<int>(kKvBlock);
            units[b] = 0.0f;
            if (at >= last || end <= first) {
                std::memset(out, 0, kKvBlock * sizeof(int16_t));
                continue;
            }
            const bool partly = at < first || end > last;
            Float scaled[kVectors];
            Float largest = V::zero();
            for (int v = 0; v < kVectors; ++v) {
                Float u = V::mul(V::load(w + kL * v), V::load(scales(t.values[b], codes) + kL * v));
                if (partly) u = V::only(u, at + static_cast<int>(kL) * v, first, last, V::zero());
                scaled[v] = u;
                largest = V::max(largest, u);
            }
            const float top = V::max_lanes(largest);
            // not where the inverse would overflow
            const float inverse = top > 1e-34f ? kWeightCode / top : 0.0f;
            units[b] = top / kWeightCode;
            for (int v = 0; v < kVectors; ++v) {
                V::store_codes(out + kL * v, V::mul(scaled[v], V::splat(inverse)));
            }
        }
    }

    // out += weights * values of a block, for kCount vectors of kQueries queries.
    template <int kQueries, int kCount, class Element>
    static inline void add_vectors(const float* weights, const float* units, const Element* values,
                                   size_t value_dim, float* out, const uint8_t* ahead) {
        Sum sums[kQueries][kCount];
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) sums[i][v] = V::none();
        }
        for (size_t j = 0; j < kKvBlock / 2; ++j) {
            const Element* value = values + 2 * j * value_dim;
            if constexpr (sizeof(Element) == 1 && kCount > 1) {
                const uint8_t* line = ahead + 2 * j * value_dim;
                for (size_t b = 0; b < 2 * kCount * kL; b += kLine) V::fetch(line + b);
            }
            Int w[kQueries];
            TEKTRA_UNROLL
            for (int i = 0; i < kQueries; ++i) w[i] = V::splat_pair(weights + i * kSplit + j);
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) {
                const Int pairs = V::pairs(value + 2 * kL * v);
                TEKTRA_UNROLL
                for (int i = 0; i < kQueries; ++i) sums[i][v] = V::dot(w[i], pairs, sums[i][v]);
            }
        }
        TEKTRA_UNROLL
        for (int i = 0; i < kQueries; ++i) {
            const Float unit = V::splat(units[i * kSplitBlocks]);
            TEKTRA_UNROLL
            for (int v = 0; v < kCount; ++v) {
                float* at = out + i * value_dim + kL * v;
                V::store(at, V::fmadd(V::to_float(sums[i][v]), unit, V::load(at)));
            }
        }
    }

    template <int kQueries, class Element>
    static inline void add_values(const float* weights, const float* units, const Element* values,
                                  size_t value_dim, float* out, const uint8_t* ahead) {
        constexpr size_t kWidth = V::kWide * kL;
        size_t d = 0;
        for (; d + kWidth <= value_dim; d += kWidth) {
            add_vectors<kQueries, V::kWide>(weights, units, values + 2 * d, value_dim, out + d,
                                            ahead + 2 * d);
        }
        for (; d + kL <= value_dim; d += kL) {
            add_vectors<kQueries, 1>(weights, units, values + 2 * d, value_dim, out + d, ahead);
        }
        for (; d < value_dim; ++d) {
            for (int i = 0; i < kQueries; ++i) {
                const auto* w = reinterpret_cast<const int16_t*>(weights + i * kSplit);
                int32_t sum = 0;
                for (size_t p = 0; p < kKvBlock; ++p) {
                    sum += w[p] * values[p / 2 * 2 * value_dim + 2 * d + p % 2];
                }
                out[i * value_dim + d] += static_cast<float>(sum) * units[i * kSplitBlocks];
            }
        }
    }

    template <int kQueries, class Element>
    static inline size_t add_tiles(const AttentionTask& t, size_t i, size_t block,
                                   const Element* values, const float* weights, const float* units,
                                   const uint8_t* ahead) {
        for (; i + kQueries <= t.num_queries; i += kQueries) {
            if (!sees(t, i, kQueries, block)) continue;
            add_values<kQueries>(weights + i * kSplit, units + i * kSplitBlocks, values,
                                 t.value_dim, t.values_sum + i * t.value_dim, ahead);
        }
        if constexpr (kQueries > 1) {
            return add_tiles<(kQueries + 1) / 2>(t, i, block, values, weights, units, ahead);
        }
        return i;
    }

    // n pairs, of which there are whole vectors: blocks are.
    static inline void widen(const int8_t* from, size_t n, int16_t* to, const uint8_t* ahead) {
        for (size_t p = 0; p < n; p += kL) {
            if (2 * p % kLine == 0) V::fetch(ahead + 2 * p);
            V::store_pairs(to + 2 * p, V::pairs(from + 2 * p));
        }
    }

    static void run(const AttentionTask& t) {
        float* scores = t.scratch;
        float* units = scores + t.num_queries * kSplit;
        auto* wide = reinterpret_cast<int16_t*>(units + t.num_queries * kSplitBlocks);
        const bool many = t.num_queries >= kWidenAt;
        const size_t num_pairs = (t.head_dim + 1) / 2, b_last = t.num_blocks - 1;
        for (size_t b = 0; b <= b_last; ++b) {
            const uint8_t* ahead = Base::ahead_of(t, b);
            fetch_scales(ahead + 2 * num_pairs * kKvBlock);
            fetch_scales(t.values[b] + kKvBlock * t.value_dim);  // read before the values are
            const auto* keys = reinterpret_cast<const int8_t*>(t.keys[b]);
            const float* key_scales = scales(t.keys[b], 2 * num_pairs * kKvBlock);
            float* at = scores + b * kKvBlock;
            if (many) {
                widen(keys, num_pairs * kKvBlock, wide, ahead);
                score_tiles<kTile, int16_t>(t, 0, b, wide, key_scales, at, ahead);
            } else {
                score_tiles<kTile>(t, 0, b, keys, key_scales, at, ahead);
            }
        }
        for (size_t i = 0; i < t.num_queries; ++i) {
            Base::weigh(t, i, scores + i * kSplit);
            encode(t, i, scores + i * kSplit, units + i * kSplitBlocks);
        }
        std::memset(t.values_sum, 0, t.num_queries * t.value_dim * sizeof(float));
        for (size_t b = 0; b <= b_last; ++b) {
            const auto* values = reinterpret_cast<const int8_t*>(t.values[b]);
            const uint8_t* ahead = Base::ahead_of(t, t.num_blocks + b);
            const float* at = scores + b * kKvBlock;
            if (many) {
                widen(values, kKvBlock / 2 * t.value_dim, wide, ahead);
                add_tiles<kTile, int16_t>(t, 0, b, wide, at, units + b, ahead);
            } else {
                add_tiles<kTile>(t, 0, b, values, at, units + b, ahead);
            }
        }
    }
};

}  // namespace
}  // namespace tektra
