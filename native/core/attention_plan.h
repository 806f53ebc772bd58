// How attention over the cache is cut into tasks. The cuts along the context are at fixed
// positions, and their results are merged in order, so a row's result never depends on them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tektra/program.h"

namespace tektra {

// Positions in a split; every row reduces split by split, whether they run in parallel or not.
constexpr size_t kSplit = 512;
static_assert(kSplit % kKvBlock == 0);

// Most queries (rows x query heads that share a kv head) in a task.
constexpr size_t kMaxQueries = 48;

// Splits run in parallel only in steps of at most so many rows: with more there are tasks enough.
constexpr size_t kMaxSplitRows = 8;

struct AttentionNumbers {
    size_t layer, num_heads, num_kv_heads, head_dim, value_dim, window;  // window 0: none
    bool causal;
    float scale, softcap;

    explicit AttentionNumbers(const Op& op)
        : layer(op.ints[0]),
          num_heads(op.ints[1]),
          num_kv_heads(op.ints[2]),
          head_dim(op.ints[3]),
          value_dim(op.ints[4]),
          window(op.ints[5]),
          causal(op.ints[6] != 0),
          scale(op.floats[0]),
          softcap(op.floats[1]) {}

    size_t group() const { return num_heads / num_kv_heads; }
    size_t rows_per_task() const { return group() >= kMaxQueries ? 1 : kMaxQueries / group(); }
    size_t max_queries() const { return rows_per_task() * group(); }
    // Floats that a thread needs: a block as floats, and two states of all queries of a task.
    size_t scratch() const {
        const size_t floats =
            attention_scratch(head_dim, value_dim) + 2 * max_queries() * (value_dim + 2);
        return (floats + 15) / 16 * 16;
    }
    // Floats for the states of all splits of all heads of a step that is split.
    size_t partials(const Limits& limits) const {
        // no sequence is longer than the cache: `check_step` sees to it
        const size_t splits = product_of({limits.num_kv_blocks, kKvBlock}) / kSplit + 1;
        const size_t rows = limits.max_rows < kMaxSplitRows ? limits.max_rows : kMaxSplitRows;
        return product_of({rows, splits, num_heads, value_dim + 2});
    }
};

}  // namespace tektra
