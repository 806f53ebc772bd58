// Online softmax over one block of the cache, plainly.
// Source: Milakov and Gimelshein, https://arxiv.org/abs/1805.02867
#include <cmath>
#include <limits>

#include "../../core/half.h"
#include "tables.h"

namespace tektra::scalar {
namespace {

void attend_block(const AttentionTask& t) {
    for (size_t i = 0; i < t.num_queries; ++i) {
        const int first = t.first[i], last = t.last[i];
        if (first >= last) continue;
        float scores[kKvBlock];
        float largest = -std::numeric_limits<float>::infinity();
        for (int j = first; j < last; ++j) {
            float dot = 0.0f;
            for (size_t d = 0; d < t.head_dim; ++d) {
                dot += t.queries[i][d] * half_to_float(t.keys[d * kKvBlock + j]);
            }
            dot *= t.scale;
            if (t.softcap != 0.0f) dot = t.softcap * std::tanh(dot / t.softcap);
            scores[j] = dot;
            largest = std::fmax(largest, dot);
        }
        float* values = t.values_sum + i * t.value_stride;
        const float maximum = std::fmax(t.maximum[i], largest);
        const float rescale = std::exp(t.maximum[i] - maximum);  // 0 for the first block
        float sum = t.sum[i] * rescale;
        for (size_t d = 0; d < t.value_dim; ++d) values[d] *= rescale;
        for (int j = first; j < last; ++j) {
            const float weight = std::exp(scores[j] - maximum);
            sum += weight;
            const half_t* value = t.values + static_cast<size_t>(j) * t.value_dim;
            for (size_t d = 0; d < t.value_dim; ++d) values[d] += weight * half_to_float(value[d]);
        }
        t.maximum[i] = maximum;
        t.sum[i] = sum;
    }
}

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend_block = attend_block;
}

}  // namespace tektra::scalar
