// Attention over one split of the context, plainly.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "../../core/half.h"
#include "tables.h"

namespace tektra::scalar {
namespace {

// What a query pays attention to: 2^(score - maximum) of the positions [first, last), with
// product(p) the query times the key at p.
template <class Product>
void weigh(const AttentionTask& t, size_t i, float* weights, const Product& product) {
    float maximum = -std::numeric_limits<float>::infinity();
    float sum = 0.0f;
    for (int p = t.first[i]; p < t.last[i]; ++p) {
        float score = product(static_cast<size_t>(p)) * t.scale;
        if (t.softcap != 0.0f) score = t.softcap * std::tanh(score / t.softcap);
        if (t.slopes != nullptr) {
            score -= t.slopes[i] * static_cast<float>(std::abs(p - t.at[i]));
        }
        weights[p] = score * kLog2E;
        maximum = std::fmax(maximum, weights[p]);
    }
    for (int p = t.first[i]; p < t.last[i]; ++p) {
        weights[p] = std::exp2(weights[p] - maximum);
        sum += weights[p];
    }
    t.maximum[i] = maximum;
    t.sum[i] = sum;
}

float to_float(half_t h) {
    return half_to_float(h);
}
float to_float(float f) {
    return f;
}

template <class Element>
void attend_floats(const AttentionTask& t) {
    for (size_t i = 0; i < t.num_queries; ++i) {
        float weights[kSplit];
        weigh(t, i, weights, [&](size_t p) {
            const auto* key = reinterpret_cast<const Element*>(t.keys[p / kKvBlock]) + p % kKvBlock;
            float dot = 0.0f;
            for (size_t d = 0; d < t.head_dim; ++d) {
                dot += t.queries[i][d] * to_float(key[d * kKvBlock]);
            }
            return dot;
        });
        float* out = t.values_sum + i * t.value_dim;
        std::fill_n(out, t.value_dim, 0.0f);
        for (int p = t.first[i]; p < t.last[i]; ++p) {
            const auto* value = reinterpret_cast<const Element*>(t.values[p / kKvBlock]) +
                                p % kKvBlock * t.value_dim;
            for (size_t d = 0; d < t.value_dim; ++d) {
                out[d] += weights[p] * to_float(value[d]);
            }
        }
    }
}

// In integers, as the other sets do it: queries and weights have 15 bits, the latter as a share of
// the largest of their block.
void attend_int8(const AttentionTask& t) {
    const size_t num_pairs = (t.head_dim + 1) / 2;
    for (size_t i = 0; i < t.num_queries; ++i) {
        const float* query = t.queries[i];
        const auto* codes = reinterpret_cast<const int16_t*>(query);
        float weights[kSplit];
        weigh(t, i, weights, [&](size_t p) {
            const uint8_t* block = t.keys[p / kKvBlock];
            const auto* key = reinterpret_cast<const int8_t*>(block) + 2 * (p % kKvBlock);
            const auto* scales = reinterpret_cast<const float*>(block + 2 * num_pairs * kKvBlock);
            int32_t dot = 0;
            for (size_t d = 0; d < 2 * num_pairs; ++d) {
                dot += codes[d] * key[d / 2 * 2 * kKvBlock + d % 2];
            }
            return static_cast<float>(dot) * scales[p % kKvBlock] * query[num_pairs];
        });
        float* out = t.values_sum + i * t.value_dim;
        std::fill_n(out, t.value_dim, 0.0f);
        for (size_t b = 0; b < t.num_blocks; ++b) {
            const int start = static_cast<int>(b * kKvBlock);
            const int lo = std::max(t.first[i] - start, 0);
            const int hi = std::min(t.last[i] - start, static_cast<int>(kKvBlock));
            const auto* values = reinterpret_cast<const int8_t*>(t.values[b]);
            const auto* scales =
                reinterpret_cast<const float*>(t.values[b] + kKvBlock * t.value_dim);
            float largest = 0.0f;
            for (int j = lo; j < hi; ++j) {
                weights[start + j] *= scales[j];
                largest = std::fmax(largest, weights[start + j]);
            }
            const float inverse = largest > 1e-34f ? kWeightCode / largest : 0.0f;
            const float unit = largest / kWeightCode;
            int32_t units[kKvBlock] = {};
            for (int j = lo; j < hi; ++j) {
                const float share = weights[start + j] * inverse;  // not a number: no value
                units[j] = share > 0.0f ? static_cast<int32_t>(std::lrint(share)) : 0;
            }
            for (size_t d = 0; d < t.value_dim; ++d) {
                int32_t sum = 0;
                for (int j = lo; j < hi; ++j) {
                    const auto pair = static_cast<size_t>(j) / 2;
                    sum += units[j] * values[2 * (pair * t.value_dim + d) + j % 2];
                }
                out[d] += static_cast<float>(sum) * unit;
            }
        }
    }
}

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kF16)] = attend_floats<half_t>;
    table.attend[static_cast<size_t>(KvType::kF32)] = attend_floats<float>;
    table.attend[static_cast<size_t>(KvType::kInt8)] = attend_int8;
}

}  // namespace tektra::scalar
