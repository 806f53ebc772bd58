// Online softmax over one block of the cache, with vectors of sixteen floats.
//
// Queries that see the whole block go through it in tiles that share each load of a key or value;
// the few that see a part of it (the last block of a row, the edge of a window) go alone, so that
// they touch nothing that they do not see. Each query's own operations are the same either way.
// Where many queries share a block it becomes floats once, otherwise while it is read.
#include <immintrin.h>

#include <cmath>
#include <limits>

#include "tables.h"

namespace tektra::avx512vnni {
namespace {

static_assert(kKvBlock == 32, "scores of a block are two vectors");

// Queries from which on it pays to convert a block beforehand.
constexpr size_t kConvertAt = 7;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline __m512 load(const float* p) {
    return _mm512_loadu_ps(p);
}
inline __m512 load(const half_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline float single(const float* p) {
    return *p;
}
inline float single(const half_t* p) {
    return _cvtsh_ss(*p);
}

// exp(x) to about 1 ulp: x = n ln 2 + r, a polynomial in r, scaled by 2^n; 0 below -87.3.
inline __m512 exp(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.3f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860682030941723e-6f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040.0f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

// cap * tanh(x / cap); tanh as 1 - 2 / (exp(2 x) + 1), and as a series where that cancels
inline __m512 soft_cap(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 v = _mm512_div_ps(x, _mm512_set1_ps(cap));
    const __m512 twice = exp(_mm512_add_ps(v, v));
    const __m512 large =
        _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(twice, one)));
    const __m512 square = _mm512_mul_ps(v, v);
    __m512 p = _mm512_set1_ps(-17.0f / 315.0f);
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(2.0f / 15.0f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-1.0f / 3.0f));
    const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, square), v, v);
    const __mmask16 is_small =
        _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(0.15f), _CMP_LT_OQ);
    return _mm512_mul_ps(_mm512_set1_ps(cap), _mm512_mask_blend_ps(is_small, large, small));
}

// A tile of queries on its way through the block.
template <int kQueries>
struct Tile {
    size_t which[kQueries];
    float weights[kQueries][kKvBlock];
    float rescale[kQueries];
};

// Scores, new maximum and weights of the tile; Element is float or half_t.
template <int kQueries, class Element>
inline void weigh(const AttentionTask& t, const Element* keys, Tile<kQueries>& tile) {
    const float* queries[kQueries];
    __m512 scores[kQueries][2];
    for (int i = 0; i < kQueries; ++i) {
        queries[i] = t.queries[tile.which[i]];
        scores[i][0] = scores[i][1] = _mm512_setzero_ps();
    }
    for (size_t d = 0; d < t.head_dim; ++d) {
        const __m512 low = load(keys + d * kKvBlock), high = load(keys + d * kKvBlock + 16);
        for (int i = 0; i < kQueries; ++i) {
            const __m512 q = _mm512_set1_ps(queries[i][d]);
            scores[i][0] = _mm512_fmadd_ps(q, low, scores[i][0]);
            scores[i][1] = _mm512_fmadd_ps(q, high, scores[i][1]);
        }
    }
    for (int i = 0; i < kQueries; ++i) {
        const size_t at = tile.which[i];
        // bits of the positions that the query sees
        const uint32_t seen = static_cast<uint32_t>((uint64_t{1} << t.last[at]) - 1) &
                              ~static_cast<uint32_t>((uint64_t{1} << t.first[at]) - 1);
        for (int v = 0; v < 2; ++v) {
            __m512 s = _mm512_mul_ps(scores[i][v], _mm512_set1_ps(t.scale));
            if (t.softcap != 0.0f) s = soft_cap(s, t.softcap);
            scores[i][v] = _mm512_mask_blend_ps(static_cast<__mmask16>(seen >> 16 * v),
                                                _mm512_set1_ps(-kInfinity), s);
        }
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(scores[i][0], scores[i][1]));
        const float maximum = std::fmax(t.maximum[at], largest);
        __m512 total = _mm512_setzero_ps();
        for (int v = 0; v < 2; ++v) {
            const __m512 w = exp(_mm512_sub_ps(scores[i][v], _mm512_set1_ps(maximum)));
            _mm512_storeu_ps(tile.weights[i] + 16 * v, w);
            total = _mm512_add_ps(total, w);
        }
        // the first block of a query finds -infinity: its empty state is multiplied by zero
        tile.rescale[i] = _mm512_cvtss_f32(exp(_mm512_set1_ps(t.maximum[at] - maximum)));
        t.sum[at] = t.sum[at] * tile.rescale[i] + _mm512_reduce_add_ps(total);
        t.maximum[at] = maximum;
    }
}

// kVectors vectors of the weighted values, from element d on, of all queries of the tile.
template <int kQueries, int kVectors, class Element>
inline void add_vectors(const AttentionTask& t, const Element* values, const Tile<kQueries>& tile,
                        int first, int last, size_t d) {
    __m512 sums[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i) {
        const float* out = t.values_sum + tile.which[i] * t.value_stride + d;
        for (int v = 0; v < kVectors; ++v) {
            sums[i][v] = _mm512_mul_ps(load(out + 16 * v), _mm512_set1_ps(tile.rescale[i]));
        }
    }
    for (int j = first; j < last; ++j) {
        const Element* value = values + static_cast<size_t>(j) * t.value_dim + d;
        __m512 loaded[kVectors];
        for (int v = 0; v < kVectors; ++v) loaded[v] = load(value + 16 * v);
        for (int i = 0; i < kQueries; ++i) {
            const __m512 w = _mm512_set1_ps(tile.weights[i][j]);
            for (int v = 0; v < kVectors; ++v) {
                sums[i][v] = _mm512_fmadd_ps(w, loaded[v], sums[i][v]);
            }
        }
    }
    for (int i = 0; i < kQueries; ++i) {
        float* out = t.values_sum + tile.which[i] * t.value_stride + d;
        for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(out + 16 * v, sums[i][v]);
    }
}

template <int kQueries, class Element>
inline void add_values(const AttentionTask& t, const Element* values, const Tile<kQueries>& tile,
                       int first, int last) {
    size_t d = 0;
    for (; d + 64 <= t.value_dim; d += 64) {
        add_vectors<kQueries, 4>(t, values, tile, first, last, d);
    }
    for (; d + 16 <= t.value_dim; d += 16) {
        add_vectors<kQueries, 1>(t, values, tile, first, last, d);
    }
    for (; d < t.value_dim; ++d) {
        for (int i = 0; i < kQueries; ++i) {
            float& out = t.values_sum[tile.which[i] * t.value_stride + d];
            float sum = out * tile.rescale[i];
            for (int j = first; j < last; ++j) {
                sum +=
                    tile.weights[i][j] * single(values + static_cast<size_t>(j) * t.value_dim + d);
            }
            out = sum;
        }
    }
}

template <int kQueries, class Element>
inline void attend(const AttentionTask& t, const Element* keys, const Element* values,
                   const size_t* which, int first, int last) {
    Tile<kQueries> tile;
    for (int i = 0; i < kQueries; ++i) tile.which[i] = which[i];
    weigh(t, keys, tile);
    add_values(t, values, tile, first, last);
}

template <class Element>
void attend_all(const AttentionTask& t, const Element* keys, const Element* values) {
    constexpr size_t kTile = 6;
    size_t waiting[kTile];
    size_t n = 0;
    for (size_t i = 0; i < t.num_queries; ++i) {
        const int first = t.first[i], last = t.last[i];
        if (first >= last) continue;
        if (first != 0 || last != static_cast<int>(kKvBlock)) {
            attend<1>(t, keys, values, &i, first, last);
            continue;
        }
        waiting[n++] = i;
        if (n == kTile) {
            attend<kTile>(t, keys, values, waiting, 0, kKvBlock);
            n = 0;
        }
    }
    const size_t* next = waiting;
    if (n >= 3) {
        attend<3>(t, keys, values, next, 0, kKvBlock);
        next += 3;
        n -= 3;
    }
    if (n == 2) attend<2>(t, keys, values, next, 0, kKvBlock);
    if (n == 1) attend<1>(t, keys, values, next, 0, kKvBlock);
}

void to_floats(const half_t* from, size_t n, float* to) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(to + i, load(from + i));
    for (; i < n; ++i) to[i] = single(from + i);
}

void attend_block(const AttentionTask& t) {
    if (t.num_queries < kConvertAt) {
        attend_all(t, t.keys, t.values);
        return;
    }
    // 64-byte aligned room inside the scratch
    float* keys = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(t.scratch) + 63) &
                                           ~static_cast<uintptr_t>(63));
    float* values = keys + kKvBlock * t.head_dim;
    to_floats(t.keys, kKvBlock * t.head_dim, keys);
    to_floats(t.values, kKvBlock * t.value_dim, values);
    attend_all(t, static_cast<const float*>(keys), static_cast<const float*>(values));
}

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend_block = attend_block;
}

}  // namespace tektra::avx512vnni
