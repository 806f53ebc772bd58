// Attention of a ragged batch: new keys and values go to the paged cache, then every row attends
// over its sequence, always through the cache, in splits of fixed size merged in order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention_plan.h"

namespace tektra {
namespace {

// Running softmax of some queries: maximum and sum [n], weighted values [n][value_dim].
struct State {
    float* maximum;
    float* sum;
    float* values;

    State(float* at, size_t n) : maximum(at), sum(at + n), values(at + 2 * n) {}

    void clear(size_t n, size_t value_dim) {
        std::fill_n(maximum, n, -std::numeric_limits<float>::infinity());
        std::memset(sum, 0, n * sizeof(float));
        std::memset(values, 0, n * value_dim * sizeof(float));
    }
};

// total <- total and part, which covers later positions. An empty part changes nothing; into an
// empty total a part goes as it is.
void merge(float& total_maximum, float& total_sum, float* total, float part_maximum, float part_sum,
           const float* part, size_t value_dim) {
    if (part_sum == 0.0f) return;
    if (total_sum == 0.0f) {
        total_maximum = part_maximum;
        total_sum = part_sum;
        std::memcpy(total, part, value_dim * sizeof(float));
        return;
    }
    const float maximum = std::fmax(total_maximum, part_maximum);
    const float a = std::exp(total_maximum - maximum), b = std::exp(part_maximum - maximum);
    total_sum = total_sum * a + part_sum * b;
    for (size_t d = 0; d < value_dim; ++d) total[d] = total[d] * a + part[d] * b;
    total_maximum = maximum;
}

// out = values / sum; a sink is one more term of the sum, without a value
void finish_row(float maximum, float sum, const float* values, size_t value_dim, const float* sink,
                float* out) {
    float factor = 1.0f;
    if (sink != nullptr) {
        const float top = std::fmax(maximum, *sink);
        factor = std::exp(maximum - top);
        sum = sum * factor + std::exp(*sink - top);
    }
    const float inverse = sum > 0.0f ? factor / sum : 0.0f;
    for (size_t d = 0; d < value_dim; ++d) out[d] = values[d] * inverse;
}

struct Span {
    size_t first, last;  // positions that a row sees: first <= p < last
};

}  // namespace

void Program::write_cache(const Op& op, const StepView& step) {
    const AttentionNumbers a(op);
    const Cache& cache = caches_[a.layer];
    auto* const keys = reinterpret_cast<half_t*>(cache.keys.data());
    auto* const values = reinterpret_cast<half_t*>(cache.values.data());
    each_row(step.num_rows, a.num_kv_heads * (a.head_dim + a.value_dim), [&](size_t r) {
        const size_t s = row_sequence_[r];
        const size_t slot = step.num_cached[s] + (r - step.row_starts[s]);
        const size_t block = step.block_tables[s * step.table_width + slot / kKvBlock];
        const size_t place = slot % kKvBlock;
        const float* k = floats(op.in[1], r);
        const float* v = floats(op.in[2], r);
        constexpr size_t kPart = 64;
        half_t part[kPart];
        for (size_t h = 0; h < a.num_kv_heads; ++h) {
            half_t* key = keys + (block * a.num_kv_heads + h) * a.head_dim * kKvBlock + place;
            for (size_t d = 0; d < a.head_dim; d += kPart) {
                const size_t n = std::min(kPart, a.head_dim - d);
                kernels_.rows.to_half(k + h * a.head_dim + d, n, part);
                for (size_t i = 0; i < n; ++i) key[(d + i) * kKvBlock] = part[i];
            }
            kernels_.rows.to_half(
                v + h * a.value_dim, a.value_dim,
                values + ((block * a.num_kv_heads + h) * kKvBlock + place) * a.value_dim);
        }
    });
}

void Program::run_attention(const Op& op, const StepView& step) {
    write_cache(op, step);

    const AttentionNumbers a(op);
    const Cache& cache = caches_[a.layer];
    const size_t group = a.group();
    const float* sinks = op.weights[0] < 0 ? nullptr : vectors_[op.weights[0]].data();
    const auto* keys = reinterpret_cast<const half_t*>(cache.keys.data());
    const auto* values = reinterpret_cast<const half_t*>(cache.values.data());

    auto span_of = [&](size_t r) {
        const size_t s = row_sequence_[r];
        const size_t rows = step.row_starts[s + 1] - step.row_starts[s];
        const size_t position = step.num_cached[s] + (r - step.row_starts[s]);
        const size_t last = a.causal ? position + 1 : step.num_cached[s] + rows;
        const size_t first = a.window != 0 && position + 1 > a.window ? position + 1 - a.window : 0;
        return Span{first, last};
    };

    // Adds positions [begin, end) of the context to the states of rows [row, row + num_rows) of
    // one sequence, for the query heads of kv head h.
    auto attend = [&](size_t row, size_t num_rows, size_t h, size_t begin, size_t end, State state,
                      float* scratch) {
        const size_t s = row_sequence_[row];
        const size_t n = num_rows * group;
        const float* queries[kMaxQueries + 256];
        int32_t first[kMaxQueries + 256], last[kMaxQueries + 256];
        for (size_t i = 0; i < n; ++i) {
            queries[i] = floats(op.in[0], row + i / group) + (h * group + i % group) * a.head_dim;
        }
        for (size_t at = begin; at < end; at += kKvBlock) {
            bool seen = false;
            for (size_t i = 0; i < n; ++i) {
                const Span span = span_of(row + i / group);
                const size_t lo = std::max(span.first, at), hi = std::min(span.last, at + kKvBlock);
                first[i] = lo < hi ? static_cast<int32_t>(lo - at) : 0;
                last[i] = lo < hi ? static_cast<int32_t>(hi - at) : 0;
                seen |= lo < hi;
            }
            if (!seen) continue;
            const size_t block = step.block_tables[s * step.table_width + at / kKvBlock];
            const size_t head = block * a.num_kv_heads + h;
            kernels_.attend_block({.queries = queries,
                                   .num_queries = n,
                                   .keys = keys + head * a.head_dim * kKvBlock,
                                   .values = values + head * kKvBlock * a.value_dim,
                                   .head_dim = a.head_dim,
                                   .value_dim = a.value_dim,
                                   .first = first,
                                   .last = last,
                                   .scale = a.scale,
                                   .softcap = a.softcap,
                                   .maximum = state.maximum,
                                   .sum = state.sum,
                                   .values_sum = state.values,
                                   .value_stride = a.value_dim,
                                   .scratch = scratch});
        }
    };
    auto scratch_of = [&](size_t thread) {
        return reinterpret_cast<float*>(attention_scratch_.data()) +
               thread * attention_scratch_floats_;
    };
    auto out_of = [&](size_t row, size_t head) {
        return floats(op.out[0], row) + head * a.value_dim;
    };

    size_t longest = 0;
    for (size_t r = 0; r < step.num_rows; ++r) longest = std::max(longest, span_of(r).last);
    const size_t num_splits = (longest + kSplit - 1) / kSplit;

    const bool split = num_splits > 1 && step.num_rows <= kMaxSplitRows &&
                       step.num_rows * a.num_kv_heads < 4 * pool_.num_threads();
    if (split) {
        // a task is a split of one row and kv head; then the splits of each head are merged
        const size_t state_floats = group * (a.value_dim + 2);
        auto partial = [&](size_t r, size_t h, size_t i) {
            return State(reinterpret_cast<float*>(attention_partials_.data()) +
                             ((r * a.num_kv_heads + h) * num_splits + i) * state_floats,
                         group);
        };
        pool_.run(step.num_rows * a.num_kv_heads * num_splits, [&](size_t task, size_t thread) {
            const size_t i = task % num_splits, h = task / num_splits % a.num_kv_heads;
            const size_t r = task / num_splits / a.num_kv_heads;
            State state = partial(r, h, i);
            state.clear(group, a.value_dim);
            attend(r, 1, h, i * kSplit, std::min((i + 1) * kSplit, span_of(r).last), state,
                   scratch_of(thread));
        });
        for (size_t r = 0; r < step.num_rows; ++r) {
            for (size_t head = 0; head < a.num_heads; ++head) {
                const size_t h = head / group, q = head % group;
                State total = partial(r, h, 0);
                float* total_values = total.values + q * a.value_dim;
                for (size_t i = 1; i < num_splits; ++i) {
                    const State part = partial(r, h, i);
                    merge(total.maximum[q], total.sum[q], total_values, part.maximum[q],
                          part.sum[q], part.values + q * a.value_dim, a.value_dim);
                }
                finish_row(total.maximum[q], total.sum[q], total_values, a.value_dim,
                           sinks == nullptr ? nullptr : sinks + head, out_of(r, head));
            }
        }
        return;
    }

    // a task is some neighbouring rows of one sequence and one kv head, over the whole context
    struct Tile {
        size_t row, num_rows;
    };
    std::vector<Tile> tiles;
    for (size_t s = 0; s < step.num_sequences; ++s) {
        const size_t end = step.row_starts[s + 1];
        for (size_t r = step.row_starts[s]; r < end; r += a.rows_per_task()) {
            tiles.push_back({r, std::min(a.rows_per_task(), end - r)});
        }
    }
    pool_.run(tiles.size() * a.num_kv_heads, [&](size_t task, size_t thread) {
        const Tile& tile = tiles[task / a.num_kv_heads];
        const size_t h = task % a.num_kv_heads, n = tile.num_rows * group;
        float* scratch = scratch_of(thread);
        float* states = scratch + attention_scratch(a.head_dim, a.value_dim);
        State total(states, n), part(states + n * (a.value_dim + 2), n);
        total.clear(n, a.value_dim);
        Span span = span_of(tile.row);
        span.last = span_of(tile.row + tile.num_rows - 1).last;
        for (size_t i = span.first / kSplit; i * kSplit < span.last; ++i) {
            part.clear(n, a.value_dim);
            attend(tile.row, tile.num_rows, h, i * kSplit, std::min((i + 1) * kSplit, span.last),
                   part, scratch);
            for (size_t q = 0; q < n; ++q) {
                merge(total.maximum[q], total.sum[q], total.values + q * a.value_dim,
                      part.maximum[q], part.sum[q], part.values + q * a.value_dim, a.value_dim);
            }
        }
        for (size_t q = 0; q < n; ++q) {
            const size_t head = h * group + q % group;
            finish_row(total.maximum[q], total.sum[q], total.values + q * a.value_dim, a.value_dim,
                       sinks == nullptr ? nullptr : sinks + head,
                       out_of(tile.row + q / group, head));
        }
    });
}

}  // namespace tektra
