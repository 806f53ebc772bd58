// Linear layers with float weights (F32, F16, BF16) on float activations, for any set of vector
// instructions: one multiply-add per element and row of a group, summed along the width in order.
//
// All here has internal linkage: every set compiles a copy of its own. V has kLanes, kTile (rows
// that are computed together), Float, load(const float*), load_half(p), load_bfloat(p), splat(f),
// zero(), fmadd(a, b, c), store(p, v), fetch(p) into the second level.
#pragma once

#include "tektra/kernel_table.h"

namespace tektra {
namespace {

template <class V>
struct FloatFormats {
    struct F32 {
        using Packed = PackedFloat<V::kLanes, float>;
        static inline typename V::Float load(const Packed& p) { return V::load(p.w); }
    };
    struct F16 {
        using Packed = PackedFloat<V::kLanes, half_t>;
        static inline typename V::Float load(const Packed& p) { return V::load_half(p.w); }
    };
    struct BF16 {
        using Packed = PackedFloat<V::kLanes, uint16_t>;
        static inline typename V::Float load(const Packed& p) { return V::load_bfloat(p.w); }
    };
};

template <class V>
inline void finish_float_rows(const LinearTask& t, size_t group, size_t row,
                              typename V::Float sum) {
    const size_t column = group * V::kLanes;
    float* out = t.out + row * t.out_stride + column;
    if (column + V::kLanes <= t.out_width) {
        const typename V::Float one = V::splat(1.0f);  // a product with it is exact
        if (t.bias != nullptr) sum = V::fmadd(V::load(t.bias + column), one, sum);
        if (t.addend != nullptr) {
            sum = V::fmadd(V::load(t.addend + row * t.addend_stride + column), one, sum);
        }
        V::store(out, sum);
        return;
    }
    float values[V::kLanes];
    V::store(values, sum);
    for (size_t lane = 0; lane < V::kLanes && column + lane < t.out_width; ++lane) {
        float value = values[lane];
        if (t.bias != nullptr) value += t.bias[column + lane];
        if (t.addend != nullptr) value += t.addend[row * t.addend_stride + column + lane];
        out[lane] = value;
    }
}

// How a product is cut so that what is read again and again stays in the first level of the cache:
// rows in chunks, and the width in blocks. Sums wait between blocks as floats, which changes
// nothing: each is made by the same additions in the same order.
constexpr size_t kRowChunk = 64;
constexpr size_t kWidthBlockBytes = 24 * 1024;  // of the weights of the groups that go together

struct Block {
    size_t begin, end;  // of the width
};

// kGroups groups of matrix rows times kRows activation rows over a block of the width. Independent
// sums hide the latency of the multiply-add; the order within each sum is always the same.
template <class V, class F, int kGroups, int kRows>
inline void float_tile(const LinearTask& t, size_t group, size_t row, const Block& block,
                       float* partial, bool fetch) {
    using Packed = typename F::Packed;
    const auto* weights = reinterpret_cast<const Packed*>(t.weights);
    const Packed* w[kGroups];
    const float* x[kRows];
    typename V::Float sums[kGroups][kRows];
    for (int r = 0; r < kRows; ++r) {
        x[r] = reinterpret_cast<const float*>(t.x + (row + r) * t.x_stride);
    }
    for (int g = 0; g < kGroups; ++g) {
        w[g] = weights + (group + g) * t.width;
        for (int r = 0; r < kRows; ++r) {
            sums[g][r] =
                block.begin == 0 ? V::zero() : V::load(partial + (r * kGroups + g) * V::kLanes);
        }
    }
    auto multiply = [&](size_t k) {
        typename V::Float loaded[kGroups];
        for (int g = 0; g < kGroups; ++g) loaded[g] = F::load(w[g][k]);
        for (int r = 0; r < kRows; ++r) {
            const typename V::Float a = V::splat(x[r][k]);
            for (int g = 0; g < kGroups; ++g) sums[g][r] = V::fmadd(loaded[g], a, sums[g][r]);
        }
    };
    if (fetch) {
        // the groups that follow, while there is time
        const size_t ahead = kGroups * t.width;
        for (size_t k = block.begin; k < block.end; ++k) {
            for (int g = 0; g < kGroups; ++g) V::fetch(w[g] + ahead + k);
            multiply(k);
        }
    } else {
        for (size_t k = block.begin; k < block.end; ++k) multiply(k);
    }
    for (int g = 0; g < kGroups; ++g) {
        for (int r = 0; r < kRows; ++r) {
            if (block.end == t.width) {
                finish_float_rows<V>(t, group + g, row + r, sums[g][r]);
            } else {
                V::store(partial + (r * kGroups + g) * V::kLanes, sums[g][r]);
            }
        }
    }
}

// The rows that are left when whole tiles are done: at most kRows.
template <class V, class F, int kGroups, int kRows>
inline void float_rest(const LinearTask& t, size_t group, size_t row, size_t end,
                       const Block& block, float* partial) {
    if constexpr (kRows > 0) {
        if (end - row == kRows) {
            float_tile<V, F, kGroups, kRows>(t, group, row, block, partial, true);
        } else {
            float_rest<V, F, kGroups, kRows - 1>(t, group, row, end, block, partial);
        }
    }
}

template <class V, class F, int kGroups, int kTile>
inline void float_rows(const LinearTask& t, size_t group) {
    alignas(64) float partial[kRowChunk * kGroups * V::kLanes];
    constexpr size_t kBlock = kWidthBlockBytes / (kGroups * sizeof(typename F::Packed));
    for (size_t first = 0; first < t.num_rows; first += kRowChunk) {
        const size_t end = t.num_rows - first < kRowChunk ? t.num_rows : first + kRowChunk;
        // rows of one tile read their weights once
        const size_t width = end - first <= kTile ? t.width : kBlock;
        for (size_t begin = 0; begin < t.width; begin += width) {
            const Block block{begin, t.width - begin < width ? t.width : begin + width};
            size_t row = first;
            float* at = partial;
            for (; row + kTile <= end; row += kTile, at += kTile * kGroups * V::kLanes) {
                float_tile<V, F, kGroups, kTile>(t, group, row, block, at, row + kTile == end);
            }
            float_rest<V, F, kGroups, kTile - 1>(t, group, row, end, block, at);
        }
    }
}

template <class V, class F>
void run_float(const LinearTask& t) {
    size_t group = t.group_begin;
    // sums for as many multiply-adds as are under way at a time, whatever the number of rows
    if (t.num_rows <= 2) {
        for (; group + 4 <= t.group_end; group += 4) float_rows<V, F, 4, 2>(t, group);
    }
    for (; group + 2 <= t.group_end; group += 2) float_rows<V, F, 2, V::kTile>(t, group);
    for (; group < t.group_end; ++group) float_rows<V, F, 1, V::kTile>(t, group);
}

// Puts the kernels of the float types into the table.
template <class V>
void fill_float(KernelTable& table) {
    auto entry = [&](WeightType type, void (*kernel)(const LinearTask&)) {
        table.linear[static_cast<int>(type)].run = kernel;
    };
    using F = FloatFormats<V>;
    entry(WeightType::F32, run_float<V, typename F::F32>);
    entry(WeightType::F16, run_float<V, typename F::F16>);
    entry(WeightType::BF16, run_float<V, typename F::BF16>);
}

}  // namespace
}  // namespace tektra
