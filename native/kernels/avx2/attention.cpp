// Online softmax over one block of the cache: the block's keys and values become floats once,
// then serve all queries that see it. Scores are computed for 32 positions side by side, so no
// query needs a horizontal sum but that of its weights.
#include <cmath>
#include <limits>

#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

static_assert(kKvBlock == 32, "scores of a block are four vectors");

void to_floats(const half_t* from, size_t n, float* to) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, load_half(from + i));
    for (; i < n; ++i) to[i] = _cvtsh_ss(from[i]);
}

// Scores of kQueries queries against the 32 keys of the block, before scaling.
template <int kQueries>
inline void score(const float* const* queries, const float* keys, size_t head_dim,
                  __m256 (*scores)[4]) {
    for (int i = 0; i < kQueries; ++i) {
        for (int v = 0; v < 4; ++v) scores[i][v] = _mm256_setzero_ps();
    }
    for (size_t d = 0; d < head_dim; ++d) {
        __m256 key[4];
        for (int v = 0; v < 4; ++v) key[v] = _mm256_load_ps(keys + d * kKvBlock + 8 * v);
        for (int i = 0; i < kQueries; ++i) {
            const __m256 q = _mm256_set1_ps(queries[i][d]);
            for (int v = 0; v < 4; ++v) scores[i][v] = _mm256_fmadd_ps(q, key[v], scores[i][v]);
        }
    }
}

// weights of the block's positions -> added to the query's weighted values; the number of vectors
// that are summed side by side is fixed by the place in the row, never by the batch
inline void add_values(const float* weights, int first, int last, const float* values,
                       size_t value_dim, float rescale, float* out) {
    const __m256 factor = _mm256_set1_ps(rescale);
    size_t d = 0;
    for (; d + 64 <= value_dim; d += 64) {
        __m256 sum[8];
        for (int v = 0; v < 8; ++v)
            sum[v] = _mm256_mul_ps(_mm256_loadu_ps(out + d + 8 * v), factor);
        for (int j = first; j < last; ++j) {
            const __m256 w = _mm256_set1_ps(weights[j]);
            const float* value = values + static_cast<size_t>(j) * value_dim + d;
            for (int v = 0; v < 8; ++v) {
                sum[v] = _mm256_fmadd_ps(w, _mm256_loadu_ps(value + 8 * v), sum[v]);
            }
        }
        for (int v = 0; v < 8; ++v) _mm256_storeu_ps(out + d + 8 * v, sum[v]);
    }
    for (; d + 8 <= value_dim; d += 8) {
        __m256 sum = _mm256_mul_ps(_mm256_loadu_ps(out + d), factor);
        for (int j = first; j < last; ++j) {
            const float* value = values + static_cast<size_t>(j) * value_dim + d;
            sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[j]), _mm256_loadu_ps(value), sum);
        }
        _mm256_storeu_ps(out + d, sum);
    }
    for (; d < value_dim; ++d) {
        float sum = out[d] * rescale;
        for (int j = first; j < last; ++j) {
            sum += weights[j] * values[static_cast<size_t>(j) * value_dim + d];
        }
        out[d] = sum;
    }
}

// From scores to the query's new state.
inline void finish(const AttentionTask& t, size_t i, const float* values, __m256* scores) {
    const int first = t.first[i], last = t.last[i];
    const __m256 lowest = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 largest = lowest;
    for (int v = 0; v < 4; ++v) {
        __m256 s = _mm256_mul_ps(scores[v], _mm256_set1_ps(t.scale));
        if (t.softcap != 0.0f) {
            const __m256 cap = _mm256_set1_ps(t.softcap);
            s = _mm256_mul_ps(cap, tanh(_mm256_div_ps(s, cap)));
        }
        const __m256i at = _mm256_add_epi32(lanes, _mm256_set1_epi32(8 * v));
        const __m256i seen = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), at),
                                                 _mm256_cmpgt_epi32(_mm256_set1_epi32(last), at));
        scores[v] = _mm256_blendv_ps(lowest, s, _mm256_castsi256_ps(seen));
        largest = _mm256_max_ps(largest, scores[v]);
    }
    const float maximum = std::fmax(t.maximum[i], max_lanes(largest));
    const __m256 shift = _mm256_set1_ps(maximum);
    alignas(32) float weights[kKvBlock];
    __m256 total = _mm256_setzero_ps();
    for (int v = 0; v < 4; ++v) {
        const __m256 w = exp(_mm256_sub_ps(scores[v], shift));
        _mm256_store_ps(weights + 8 * v, w);
        total = _mm256_add_ps(total, w);
    }
    // the first block of a query finds -infinity: its empty state is multiplied by zero
    const float rescale = _mm256_cvtss_f32(exp(_mm256_set1_ps(t.maximum[i] - maximum)));
    t.sum[i] = t.sum[i] * rescale + sum_lanes(total);
    t.maximum[i] = maximum;
    add_values(weights, first, last, values, t.value_dim, rescale,
               t.values_sum + i * t.value_stride);
}

template <int kQueries>
inline void attend(const AttentionTask& t, const size_t* which, const float* keys,
                   const float* values) {
    const float* queries[kQueries];
    for (int i = 0; i < kQueries; ++i) queries[i] = t.queries[which[i]];
    __m256 scores[kQueries][4];
    score<kQueries>(queries, keys, t.head_dim, scores);
    for (int i = 0; i < kQueries; ++i) finish(t, which[i], values, scores[i]);
}

void attend_block(const AttentionTask& t) {
    // 32-byte aligned room inside the scratch
    float* keys = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(t.scratch) + 31) &
                                           ~static_cast<uintptr_t>(31));
    float* values = keys + kKvBlock * t.head_dim;
    bool ready = false;
    size_t waiting[3];
    size_t num_waiting = 0;
    for (size_t i = 0; i < t.num_queries; ++i) {
        if (t.first[i] >= t.last[i]) continue;
        if (!ready) {
            to_floats(t.keys, kKvBlock * t.head_dim, keys);
            to_floats(t.values, kKvBlock * t.value_dim, values);
            ready = true;
        }
        waiting[num_waiting++] = i;
        if (num_waiting == 3) {
            attend<3>(t, waiting, keys, values);
            num_waiting = 0;
        }
    }
    if (num_waiting == 2) attend<2>(t, waiting, keys, values);
    if (num_waiting == 1) attend<1>(t, waiting, keys, values);
}

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend_block = attend_block;
}

}  // namespace tektra::avx2
