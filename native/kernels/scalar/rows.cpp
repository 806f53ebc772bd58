// Row-wise kernels, plainly: norms, rotary positions, activations, quantization to int8.
#include <cmath>
#include <cstring>
#include <limits>

#include "../../core/half.h"
#include "tables.h"

namespace tektra::scalar {
namespace {

void quantize(const float* x, size_t n, uint8_t* out) {
    const size_t num_blocks = n / kActivationBlock;
    float top = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        if (!(std::fabs(x[i]) <= top) && !std::isnan(top)) top = std::fabs(x[i]);
    }
    const float d = top / (127.0f * kMaxFactor);
    std::memcpy(out + num_blocks * sizeof(ActivationBlock), &d, sizeof d);
    // nothing is left of a row that is smaller than this, and nothing can be made of infinities
    const bool representable = top >= kSmallestRow && top <= std::numeric_limits<float>::max();
    for (size_t b = 0; b < num_blocks; ++b) {
        ActivationBlock a;
        std::memset(&a, 0, sizeof a);
        for (size_t h = 0; h < 2 && representable; ++h) {
            const float* from = x + kActivationBlock * b + 16 * h;
            float largest = 0.0f;
            for (size_t e = 0; e < 16; ++e) largest = std::fmax(largest, std::fabs(from[e]));
            const float factor =
                std::fmin(std::ceil(largest * (kMaxFactor / top)), float{kMaxFactor});
            const float inverse = factor > 0.0f ? 127.0f * kMaxFactor / top / factor : 0.0f;
            int sum = 0;
            for (size_t e = 0; e < 16; ++e) {
                const int value = static_cast<int>(std::nearbyint(from[e] * inverse));
                a.q[16 * h + e] = static_cast<int8_t>(value);
                sum += value;
            }
            a.factor[h] = a.twice[h][0] = a.twice[h][1] = static_cast<int16_t>(factor);
            a.scale[h] = factor;
            a.total += factor * static_cast<float>(sum);
            a.centre[h] = -32.0f * factor * static_cast<float>(sum);
        }
        std::memcpy(out + b * sizeof a, &a, sizeof a);
    }
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    double squares = 0.0;
    for (size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
    const float factor =
        1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, size_t n, float eps,
                float* out) {
    double total = 0.0;
    for (size_t i = 0; i < n; ++i) total += x[i];
    const auto mean = static_cast<float>(total / static_cast<double>(n));
    double squares = 0.0;
    for (size_t i = 0; i < n; ++i) {
        const double centred = x[i] - mean;
        squares += centred * centred;
    }
    const float factor =
        1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
    for (size_t i = 0; i < n; ++i) {
        out[i] = (x[i] - mean) * factor * weight[i] + (bias != nullptr ? bias[i] : 0.0f);
    }
}

void rope_interleaved(const float* x, const float* cos, const float* sin, size_t heads,
                      size_t head_dim, size_t dim, float* out) {
    for (size_t h = 0; h < heads; ++h, x += head_dim, out += head_dim) {
        for (size_t i = 0; i < dim / 2; ++i) {
            const float a = x[2 * i], b = x[2 * i + 1];
            out[2 * i] = a * cos[i] - b * sin[i];
            out[2 * i + 1] = b * cos[i] + a * sin[i];
        }
        if (out != x) std::memcpy(out + dim, x + dim, (head_dim - dim) * sizeof(float));
    }
}

void rope_half(const float* x, const float* cos, const float* sin, size_t heads, size_t head_dim,
               size_t dim, float* out) {
    const size_t half = dim / 2;
    for (size_t h = 0; h < heads; ++h, x += head_dim, out += head_dim) {
        for (size_t i = 0; i < half; ++i) {
            const float a = x[i], b = x[i + half];
            out[i] = a * cos[i] - b * sin[i];
            out[i + half] = b * cos[i] + a * sin[i];
        }
        if (out != x) std::memcpy(out + dim, x + dim, (head_dim - dim) * sizeof(float));
    }
}

float apply(float x, int function) {
    switch (function) {
        case kSilu:
            return x / (1.0f + std::exp(-x));
        case kGelu:
            return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752440f));
        case kGeluTanh:
            return 0.5f * x *
                   (1.0f + std::tanh(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
        case kRelu:
            return x > 0.0f ? x : 0.0f;
        case kSigmoid:
            return 1.0f / (1.0f + std::exp(-x));
        default:
            return std::tanh(x);
    }
}

void activate(const float* x, size_t n, int function, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = apply(x[i], function);
}

void gated(const float* gate, const float* up, size_t n, int function, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = apply(gate[i], function) * up[i];
}

void add(const float* a, const float* b, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void mul(const float* a, const float* b, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

void scale(const float* x, size_t n, float factor, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

void softcap(const float* x, size_t n, float cap, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = cap * std::tanh(x[i] / cap);
}

void to_half(const float* x, size_t n, half_t* out) {
    for (size_t i = 0; i < n; ++i) out[i] = float_to_half(x[i]);
}

}  // namespace

void fill_rows(KernelTable& table) {
    table.rows = {quantize, rms_norm, layer_norm, rope_interleaved, rope_half, activate, gated,
                  add,      mul,      scale,      softcap,          to_half};
}

}  // namespace tektra::scalar
