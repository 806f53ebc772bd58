// Attention of a ragged batch: new keys and values go to the paged cache, then every row attends
// over its sequence, always through the cache, in splits of fixed size merged in order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "attention_plan.h"
#include "kv_cache.h"

namespace tektra {
namespace {

// Running softmax of some queries: maximum and sum [n], weighted values [n][value_dim].
struct State {
    float* maximum;
    float* sum;
    float* values;

    State(float* at, size_t n) : maximum(at), sum(at + n), values(at + 2 * n) {}
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
    // one of the two factors is 1
    float a = 1.0f, b = 1.0f;
    if (part_maximum <= total_maximum) {
        b = std::exp2(part_maximum - total_maximum);
    } else {
        a = std::exp2(total_maximum - part_maximum);
        total_maximum = part_maximum;
    }
    total_sum = total_sum * a + part_sum * b;
    for (size_t d = 0; d < value_dim; ++d) total[d] = total[d] * a + part[d] * b;
}

// out = values / sum; a sink is one more term of the sum, without a value
void finish_row(float maximum, float sum, const float* values, size_t value_dim, const float* sink,
                float* out) {
    float factor = 1.0f;
    if (sink != nullptr) {
        const float score = *sink * kLog2E, top = std::fmax(maximum, score);
        factor = std::exp2(maximum - top);
        sum = sum * factor + std::exp2(score - top);
    }
    const float inverse = sum > 0.0f ? factor / sum : 0.0f;
    for (size_t d = 0; d < value_dim; ++d) out[d] = values[d] * inverse;
}

struct Span {
    size_t first, last;  // positions that a row sees: first <= p < last
};

}  // namespace

int32_t Program::add_cache(size_t num_kv_heads, size_t head_dim, size_t value_dim, KvType type) {
    const Exclusive exclusive(busy_);
    check_building();
    if (type < KvType{} || type >= KvType::kNumTypes) {
        throw std::invalid_argument("an unknown type of cache");
    }
    if (type == KvType::kInt8 && head_dim > kMaxInt8Head) {
        throw std::invalid_argument("an int8 cache holds heads of at most " +
                                    std::to_string(kMaxInt8Head) + " elements, not " +
                                    std::to_string(head_dim));
    }
    // no size of a block overflows
    for (const size_t dim : {head_dim, value_dim}) {
        product_of({limits_.num_kv_blocks + 1, num_kv_heads + 1, 8 * kKvBlock, dim + 64});
    }
    caches_.push_back({type, num_kv_heads, head_dim, value_dim, cache_block_bytes_});
    const size_t bytes = caches_.back().bytes();
    if (cache_block_bytes_ > std::numeric_limits<size_t>::max() - bytes) throw std::bad_alloc();
    cache_block_bytes_ += bytes;
    product_of({limits_.num_kv_blocks, cache_block_bytes_});
    return static_cast<int32_t>(caches_.size() - 1);
}

void Program::write_cache(const Op& op, const StepView& step) {
    const AttentionNumbers a(op);
    const KvShape& shape = caches_[a.layer];
    each_row(step.num_rows, a.num_kv_heads * (a.head_dim + a.value_dim), [&](size_t r) {
        const size_t s = row_sequence_[r];
        const size_t slot = step.num_cached[s] + (r - step.row_starts[s]);
        const size_t block = step.block_tables[s * step.table_width + slot / kKvBlock];
        const size_t place = slot % kKvBlock;
        const float* k = floats(op.in[1], r);
        const float* v = floats(op.in[2], r);
        for (size_t h = 0; h < a.num_kv_heads; ++h) {
            write_kv(kernels_.rows, shape, place, k + h * a.head_dim, v + h * a.value_dim,
                     kv_head(shape, block, h));
        }
    });
}

void Program::run_attention(const Op& op, const StepView& step) {
    write_cache(op, step);

    const AttentionNumbers a(op);
    const KvShape& shape = caches_[a.layer];
    const size_t group = a.group();
    const float* sinks = op.weights[0] < 0 ? nullptr : vectors_[op.weights[0]].data();
    const float* slopes = op.floats.size() == AttentionNumbers::kNumFloats
                              ? nullptr
                              : op.floats.data() + AttentionNumbers::kNumFloats;
    const size_t key_bytes = shape.key_bytes();
    const AttentionKernel kernel = kernels_.attend[static_cast<size_t>(shape.type)];

    // Both ends of it never become less from row to row of a sequence, and each row sees itself.
    auto span_of = [&](size_t r) {
        const size_t s = row_sequence_[r];
        const size_t start = step.row_starts[s], cached = step.num_cached[s];
        const size_t position = cached + (r - start);
        Span span{0, a.causal ? position + 1 : cached + step.row_starts[s + 1] - start};
        if (a.window != 0) {
            if (position + 1 > a.window) span.first = position + 1 - a.window;
            span.last = std::min(span.last, position + a.window);
        }
        if (a.chunk != 0) {
            const size_t chunk = position / a.chunk * a.chunk;
            span.first = std::max(span.first, chunk);
            span.last = std::min(span.last, chunk + a.chunk);
        }
        if (a.block_diagonal) {
            const int32_t* block = step.block_starts + row_block_[r];
            span.first = std::max(span.first, cached + (block[0] - start));
            span.last = std::min(span.last, cached + (block[1] - start));
        }
        return span;
    };

    auto scratch_of = [&](size_t thread) {
        return reinterpret_cast<float*>(attention_scratch_.data()) +
               thread * attention_scratch_floats_;
    };
    // The queries of a tile, for kv head h, as the kernel wants them, which may be at `made`.
    auto queries_of = [&](const AttentionTile& tile, size_t h, float* made, const float** queries) {
        for (size_t i = 0; i < tile.num_rows * group; ++i) {
            queries[i] =
                floats(op.in[0], tile.row + i / group) + (h * group + i % group) * a.head_dim;
            if (shape.type != KvType::kInt8) continue;
            quantize_query(queries[i], a.head_dim, made);
            queries[i] = made;
            made += int8_query_floats(a.head_dim);
        }
    };
    // The states of the rows of a tile over one split.
    auto attend = [&](const AttentionTile& tile, size_t h, const float* const* queries,
                      size_t split, const State& state, float* scratch) {
        const size_t n = tile.num_rows * group;
        const size_t begin = split * kSplit, end = begin + kSplit;
        int32_t first[kMostQueries], last[kMostQueries], position[kMostQueries];
        float slope[kMostQueries];
        size_t seen_first = end, seen_last = begin;
        for (size_t r = 0; r < tile.num_rows; ++r) {
            const Span span = span_of(tile.row + r);
            const size_t lo = std::max(span.first, begin), hi = std::min(span.last, end);
            if (lo >= hi) continue;
            seen_first = std::min(seen_first, lo);
            seen_last = std::max(seen_last, hi);
        }
        const size_t first_block = seen_first / kKvBlock, start = first_block * kKvBlock;
        for (size_t i = 0; i < n; ++i) {
            const Span span = span_of(tile.row + i / group);
            const size_t lo = std::max(span.first, begin), hi = std::min(span.last, end);
            first[i] = lo < hi ? static_cast<int32_t>(lo - start) : 0;
            last[i] = lo < hi ? static_cast<int32_t>(hi - start) : 0;
            if (slopes == nullptr) continue;
            const size_t r = tile.row + i / group, s = row_sequence_[r];
            const size_t at = step.num_cached[s] + (r - step.row_starts[s]);
            position[i] =
                static_cast<int32_t>(static_cast<int64_t>(at) - static_cast<int64_t>(start));
            slope[i] = slopes[h * group + i % group];
        }
        const size_t last_of_tile = span_of(tile.row + tile.num_rows - 1).last;
        const uint8_t *keys[kSplitBlocks], *values[kSplitBlocks];
        const int32_t* table = step.block_tables + row_sequence_[tile.row] * step.table_width;
        size_t num_blocks = 0;
        for (size_t b = first_block; b * kKvBlock < seen_last; ++b) {
            keys[num_blocks] = kv_head(shape, table[b], h);
            values[num_blocks] = keys[num_blocks] + key_bytes;
            ++num_blocks;
        }
        const uint8_t* next[kFetchAhead];
        size_t num_next = 0;
        while (num_next < kFetchAhead && end + num_next * kKvBlock < last_of_tile) {
            next[num_next] = kv_head(shape, table[end / kKvBlock + num_next], h);
            ++num_next;
        }
        kernel({.queries = queries,
                .num_queries = n,
                .keys = keys,
                .values = values,
                .num_blocks = num_blocks,
                .next = next,
                .num_next = num_next,
                .head_dim = a.head_dim,
                .value_dim = a.value_dim,
                .first = first,
                .last = last,
                .scale = a.scale,
                .softcap = a.softcap,
                .slopes = slopes == nullptr ? nullptr : slope,
                .at = position,
                .maximum = state.maximum,
                .sum = state.sum,
                .values_sum = state.values,
                .scratch = scratch});
    };
    // total <- total and part, of n queries
    auto merge_all = [&](State& total, const State& part, size_t n) {
        for (size_t q = 0; q < n; ++q) {
            merge(total.maximum[q], total.sum[q], total.values + q * a.value_dim, part.maximum[q],
                  part.sum[q], part.values + q * a.value_dim, a.value_dim);
        }
    };
    auto finish = [&](const AttentionTile& tile, size_t h, const State& total) {
        for (size_t q = 0; q < tile.num_rows * group; ++q) {
            const size_t head = h * group + q % group;
            finish_row(total.maximum[q], total.sum[q], total.values + q * a.value_dim, a.value_dim,
                       sinks == nullptr ? nullptr : sinks + head,
                       floats(op.out[0], tile.row + q / group) + head * a.value_dim);
        }
    };

    const size_t wanted = kTasksPerThread * pool_.num_threads();
    const size_t num_splits = tile_rows(a, step, span_of);
    const size_t num_tiles = tiles_.size();
    if (num_splits == 1 || step.num_rows > kMaxSplitRows) {
        // a task is some neighbouring rows of one sequence and one kv head, over the whole context
        pool_.run(num_tiles * a.num_kv_heads, [&](size_t task, size_t thread) {
            const AttentionTile& tile = tiles_[task / a.num_kv_heads];
            const size_t h = task % a.num_kv_heads, n = tile.num_rows * group;
            float* scratch = scratch_of(thread);
            State total(scratch + a.states_at(), n);
            State part(total.values + n * a.value_dim, n);
            const float* queries[kMostQueries];
            queries_of(tile, h, scratch + a.queries_at(), queries);
            attend(tile, h, queries, tile.first_split, total, scratch);
            for (size_t i = tile.first_split + 1; i < tile.end_split; ++i) {
                attend(tile, h, queries, i, part, scratch);
                merge_all(total, part, n);
            }
            finish(tile, h, total);
        });
        return;
    }

    // a task is some splits of a tile and kv head; then the splits of each are merged
    auto partial = [&](const AttentionTile& tile, size_t h, size_t split) {
        const size_t n = tile.num_rows * group, i = split - tile.first_split;
        const size_t before = tile.row * num_splits * a.num_heads + (h * num_splits + i) * n;
        return State(reinterpret_cast<float*>(attention_partials_.data()) + before * a.state(), n);
    };
    const size_t share = std::max<size_t>(1, num_tiles * a.num_kv_heads * num_splits / wanted);
    const size_t shares = (num_splits + share - 1) / share;
    pool_.run(num_tiles * a.num_kv_heads * shares, [&](size_t task, size_t thread) {
        const AttentionTile& tile = tiles_[task / shares / a.num_kv_heads];
        const size_t h = task / shares % a.num_kv_heads;
        const size_t at = tile.first_split + task % shares * share;
        const size_t end = std::min(at + share, tile.end_split);
        if (at >= end) return;
        float* scratch = scratch_of(thread);
        const float* queries[kMostQueries];
        queries_of(tile, h, scratch + a.queries_at(), queries);
        for (size_t i = at; i < end; ++i) {
            attend(tile, h, queries, i, partial(tile, h, i), scratch);
        }
    });
    for (const AttentionTile& tile : tiles_) {
        for (size_t h = 0; h < a.num_kv_heads; ++h) {
            State total = partial(tile, h, tile.first_split);
            for (size_t i = tile.first_split + 1; i < tile.end_split; ++i) {
                merge_all(total, partial(tile, h, i), tile.num_rows * group);
            }
            finish(tile, h, total);
        }
    }
}

// Parts the rows of a step into tiles, the longest first; returns the most splits that one has.
template <class SpanOf>
size_t Program::tile_rows(const AttentionNumbers& a, const StepView& step, const SpanOf& span_of) {
    // smaller than possible where there would be too few tasks
    const size_t wanted = kTasksPerThread * pool_.num_threads();
    const size_t even = (step.num_rows * a.num_kv_heads + wanted - 1) / wanted;
    const size_t most = std::min(a.rows_per_task(), std::max<size_t>(1, even));
    size_t num_splits = 1;
    tiles_.clear();
    for (size_t s = 0; s < step.num_sequences; ++s) {
        const size_t end = step.row_starts[s + 1];
        for (size_t r = step.row_starts[s]; r < end; r += most) {
            const size_t rows = std::min(most, end - r);
            const size_t first = span_of(r).first / kSplit;
            const size_t last = (span_of(r + rows - 1).last + kSplit - 1) / kSplit;
            tiles_.push_back({r, rows, first, last});
            num_splits = std::max(num_splits, last - first);
        }
    }
    auto cost = [](const AttentionTile& t) { return t.num_rows * (t.end_split - t.first_split); };
    std::sort(tiles_.begin(), tiles_.end(), [&](const AttentionTile& x, const AttentionTile& y) {
        return cost(x) != cost(y) ? cost(x) > cost(y) : x.row < y.row;
    });
    return num_splits;
}

}  // namespace tektra
