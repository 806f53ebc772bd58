// How attention over the cache is cut into tasks. The cuts along the context are at fixed
// positions, and their results are merged in order, so a row's result never depends on them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv_cache.h"
#include "tektra/program.h"

namespace tektra {

// Most queries (rows x query heads that share a kv head) in a task, unless one row has more.
constexpr size_t kMaxQueries = 96;

// Query heads that may share a kv head.
constexpr size_t kMaxGroup = 256;

// No task has more: one row alone, or rows up to kMaxQueries.
constexpr size_t kMostQueries = kMaxGroup > kMaxQueries ? kMaxGroup : kMaxQueries;

// Splits run in parallel only in steps of at most so many rows: with more there are tasks enough.
constexpr size_t kMaxSplitRows = 8;

// Tasks a thread: enough to even out tasks of different lengths.
constexpr size_t kTasksPerThread = 8;

struct AttentionNumbers {
    static constexpr size_t kNumInts = 9, kNumFloats = 2;  // and a slope for each head, or none

    size_t layer, num_heads, num_kv_heads, head_dim, value_dim;
    size_t window, chunk;  // 0: none
    bool causal, block_diagonal;
    float scale, softcap;

    explicit AttentionNumbers(const Op& op)
        : layer(op.ints[0]),
          num_heads(op.ints[1]),
          num_kv_heads(op.ints[2]),
          head_dim(op.ints[3]),
          value_dim(op.ints[4]),
          window(op.ints[5]),
          chunk(op.ints[7]),
          causal(op.ints[6] != 0),
          block_diagonal(op.ints[8] != 0),
          scale(op.floats[0]),
          softcap(op.floats[1]) {}

    size_t group() const { return num_heads / num_kv_heads; }
    size_t rows_per_task() const { return group() >= kMaxQueries ? 1 : kMaxQueries / group(); }
    size_t max_queries() const { return rows_per_task() * group(); }
    // Floats of the state of a query: maximum, sum, weighted values.
    size_t state() const { return value_dim + 2; }
    // Floats that a thread needs: what the kernel wants, two states of all queries of a task, and
    // the queries as an int8 cache wants them.
    size_t scratch() const {
        return queries_at() + round_up(max_queries() * int8_query_floats(head_dim));
    }
    // Of those, where the states and the queries begin.
    size_t states_at() const {
        return round_up(attention_scratch(max_queries(), head_dim, value_dim));
    }
    size_t queries_at() const { return states_at() + round_up(2 * max_queries() * state()); }
    // Floats for the states of all splits of all heads of a step that is split.
    size_t partials(const Limits& limits) const {
        // no sequence is longer than the cache: `check_step` sees to it
        const size_t splits = product_of({limits.num_kv_blocks, kKvBlock}) / kSplit + 1;
        const size_t rows = limits.max_rows < kMaxSplitRows ? limits.max_rows : kMaxSplitRows;
        return product_of({rows, splits, num_heads, state()});
    }

  private:
    static size_t round_up(size_t floats) { return (floats + 15) / 16 * 16; }  // 64 bytes
};

}  // namespace tektra
