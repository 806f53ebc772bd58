// The paged cache of keys and values as it lies in memory, and the kernel that attends over it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tektra/packed_blocks.h"

namespace tektra {

constexpr size_t kKvBlock = 32;  // tokens in a block of the cache

// Positions in a split. A row's attention is reduced split by split, at fixed positions, and the
// splits are merged in order, so that it does not matter who computes which.
constexpr size_t kSplit = 256;

// Blocks of keys or values that are fetched before they are read.
constexpr size_t kFetchAhead = 2;

constexpr float kLog2E = 1.44269504f;

constexpr size_t kSplitBlocks = kSplit / kKvBlock;
static_assert(kSplit % kKvBlock == 0);

// What keys and values are kept as; numbered as CACHE_TYPES in backends/base.py.
enum class KvType : int32_t { kF16, kInt8, kF32, kNumTypes };
constexpr size_t kNumKvTypes = static_cast<size_t>(KvType::kNumTypes);

// The cache is [block][layer][kv head], and each head of a block is its keys and then its values,
// each from a multiple of 64 bytes on. What a sequence adds goes to one place of memory, block by
// block, so large pages fit.
//
//   binary16  keys    half_t [head_dim][kKvBlock]            transposed, so that the products of 32
//                                                            positions are computed side by side
//             values  half_t [kKvBlock][value_dim]
//   float32   the same of floats
//   int8      keys    int8_t [(head_dim + 1) / 2][kKvBlock][2], then float scale[kKvBlock]: rotated
//                     (core/kv_cache.h), elements in pairs, the last of an odd number with a zero
//             values  int8_t [kKvBlock / 2][value_dim][2], then float scale[kKvBlock]: positions in
//                     pairs
//
// An int8 is an element divided by the scale of its position, from -127 to 127.
struct KvShape {  // of one layer
    KvType type;
    size_t num_kv_heads, head_dim, value_dim;
    size_t offset;  // bytes of the layers before it in a block

    constexpr size_t key_bytes() const {
        if (type == KvType::kF16) return head_dim * kKvBlock * sizeof(half_t);
        if (type == KvType::kF32) return head_dim * kKvBlock * sizeof(float);
        return (head_dim + 1) / 2 * 2 * kKvBlock + kKvBlock * sizeof(float);
    }
    constexpr size_t value_bytes() const {
        if (type == KvType::kF16) return value_dim * kKvBlock * sizeof(half_t);
        if (type == KvType::kF32) return value_dim * kKvBlock * sizeof(float);
        return (value_dim * kKvBlock + kKvBlock * sizeof(float) + 63) / 64 * 64;
    }
    constexpr size_t head_bytes() const { return key_bytes() + value_bytes(); }
    constexpr size_t bytes() const { return num_kv_heads * head_bytes(); }
};
static_assert(KvShape{KvType::kF16, 3, 64, 64, 0}.bytes() == 3 * 2 * 32 * 64 * 2);
static_assert(KvShape{KvType::kInt8, 3, 64, 64, 0}.bytes() == 3 * 2 * 32 * (64 + 4));
static_assert(KvShape{KvType::kInt8, 1, 17, 1, 0}.bytes() == 18 * 32 + 32 * 4 + 192);

// Largest key head of an int8 cache: the products of so many elements fit an int32.
constexpr size_t kMaxInt8Head = 512;
constexpr int kLargestCode = 127;
// Queries and weights as integers, for int8 caches.
constexpr float kQueryCode = 32767.0f, kWeightCode = 32767.0f;
static_assert(kMaxInt8Head * kLargestCode * 32767 < (size_t{1} << 31));
static_assert(kKvBlock * kLargestCode * 32767 < (size_t{1} << 31));

// Softmax attention of several queries over one split of the context of one kv head.
// Query i sees the positions first[i] <= p < last[i], counted from the first block; none where
// first >= last. What it gets depends on nothing else: neither on the other queries, nor on what
// lies at positions that it does not see, nor on blocks before and after those.
struct AttentionTask {
    // [num_queries] pointers to head_dim floats; for int8 caches to what quantize_query has made:
    // (head_dim + 1) / 2 pairs of int16, and the float that they are multiplied by.
    const float* const* queries;
    size_t num_queries;
    const uint8_t* const* keys;    // [num_blocks], at most kSplitBlocks
    const uint8_t* const* values;  // [num_blocks]
    size_t num_blocks;
    const uint8_t* const* next;  // [num_next] keys that are read after this task
    size_t num_next;
    size_t head_dim;
    size_t value_dim;
    const int32_t* first;
    const int32_t* last;
    float scale;
    float softcap;  // 0: none
    // [num_queries] what a score loses for each position between the query's own, `at`, and the
    // key's; null: nothing
    const float* slopes;
    const int32_t* at;
    // Results, with the scores in units of ln 2 so that weights are powers of two: their maximum
    // (-infinity where nothing is seen), the sum of 2^(score - maximum), and the values weighted
    // by these, not yet divided.
    float* maximum;     // [num_queries]
    float* sum;         // [num_queries]
    float* values_sum;  // [num_queries][value_dim]
    float* scratch;     // attention_scratch(...) floats, 64-byte aligned
};

// Floats that a kernel wants: the scores of all queries and a unit for each block of them, and a
// block of keys or values made wider.
constexpr size_t attention_scratch(size_t num_queries, size_t head_dim, size_t value_dim) {
    const size_t widest = head_dim > value_dim ? head_dim : value_dim;
    return num_queries * (kSplit + kSplitBlocks) + kKvBlock * (widest + 1);
}

using AttentionKernel = void (*)(const AttentionTask& task);

}  // namespace tektra
