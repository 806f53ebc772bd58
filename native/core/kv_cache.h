// Writing keys and values to the cache, and queries that read an int8 cache.
//
// Keys of an int8 cache are rotated first: products of keys and queries stay the same when both
// are, and a few large elements, which keys have and which would leave few steps of the scale for
// the others, are spread over all. The rotation is a Hadamard matrix, for a power of two of
// neighbouring elements at a time: sums and differences only, without its factor, which is a power
// of two in the product and goes into the scale of the query.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tektra/kernel_table.h"

namespace tektra {

// Puts one position of one kv head into its block.
void write_kv(const RowKernels& rows, const KvShape& shape, size_t place, const float* key,
              const float* value, uint8_t* head);

// Floats of a query of an int8 cache.
constexpr size_t int8_query_floats(size_t head_dim) {
    return (head_dim + 1) / 2 + 1;
}

// A query as the kernels of int8 caches want it. At most kMaxInt8Head elements.
void quantize_query(const float* query, size_t head_dim, float* out);

}  // namespace tektra
