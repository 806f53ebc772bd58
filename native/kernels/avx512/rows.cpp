// Row-wise kernels on vectors of sixteen floats: those that gained by them. A row that ends in the
// middle of a vector ends with a mask, so every element is computed by the same instructions.
#include <cmath>

#include "../shared/math512.h"
#include "tables.h"

namespace tektra::avx512 {
namespace {

// The lanes of the vector from element i on that are inside a row of n elements.
inline __mmask16 inside(size_t i, size_t n) {
    return static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1u << (n - i)) - 1);
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    constexpr size_t kSums = 4;  // that hide how long an addition takes
    __m512 sums[kSums] = {};
    size_t i = 0;
    for (; i + 16 * kSums <= n; i += 16 * kSums) {
        for (size_t s = 0; s < kSums; ++s) {
            const __m512 v = _mm512_loadu_ps(x + i + 16 * s);
            sums[s] = _mm512_fmadd_ps(v, v, sums[s]);
        }
    }
    for (; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(inside(i, n), x + i);
        sums[0] = _mm512_fmadd_ps(v, v, sums[0]);
    }
    const float total = _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(total / static_cast<float>(n) + eps));
    for (i = 0; i + 16 <= n; i += 16) {
        const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), factor);
        _mm512_storeu_ps(out + i, _mm512_mul_ps(v, _mm512_loadu_ps(weight + i)));
    }
    if (i < n) {
        const __mmask16 some = inside(i, n);
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), factor);
        _mm512_mask_storeu_ps(out + i, some,
                              _mm512_mul_ps(v, _mm512_maskz_loadu_ps(some, weight + i)));
    }
}

inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 e = exp(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(one, _mm512_add_ps(one, e));
}

template <int kFunction>
inline __m512 apply(__m512 x) {
    if constexpr (kFunction == kSilu) return _mm512_mul_ps(x, sigmoid(x));
    if constexpr (kFunction == kSigmoid) return sigmoid(x);
    if constexpr (kFunction == kTanh) return tanh(x);
    if constexpr (kFunction == kRelu) return _mm512_max_ps(x, _mm512_setzero_ps());
    if constexpr (kFunction == kGeluTanh) {
        const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
        const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.79788456080286535588f),
                                           _mm512_fmadd_ps(_mm512_set1_ps(0.044715f), cube, x));
        const __m512 half = _mm512_mul_ps(_mm512_set1_ps(0.5f), x);
        return _mm512_fmadd_ps(half, tanh(inner), half);
    }
}

template <int kFunction>
void activate_row(const float* x, size_t n, float* out) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 some = inside(i, n);
        _mm512_mask_storeu_ps(out + i, some, apply<kFunction>(_mm512_maskz_loadu_ps(some, x + i)));
    }
}

template <int kFunction>
void gated_row(const float* gate, const float* up, size_t n, float* out) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 some = inside(i, n);
        const __m512 g = apply<kFunction>(_mm512_maskz_loadu_ps(some, gate + i));
        _mm512_mask_storeu_ps(out + i, some, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(some, up + i)));
    }
}

float gelu(float x) {
    return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752440f));
}

void activate(const float* x, size_t n, int function, float* out) {
    switch (function) {
        case kSilu:
            return activate_row<kSilu>(x, n, out);
        case kGelu:
            for (size_t i = 0; i < n; ++i) out[i] = gelu(x[i]);
            return;
        case kGeluTanh:
            return activate_row<kGeluTanh>(x, n, out);
        case kRelu:
            return activate_row<kRelu>(x, n, out);
        case kSigmoid:
            return activate_row<kSigmoid>(x, n, out);
        default:
            return activate_row<kTanh>(x, n, out);
    }
}

void gated(const float* gate, const float* up, size_t n, int function, float* out) {
    switch (function) {
        case kSilu:
            return gated_row<kSilu>(gate, up, n, out);
        case kGelu:
            for (size_t i = 0; i < n; ++i) out[i] = gelu(gate[i]) * up[i];
            return;
        case kGeluTanh:
            return gated_row<kGeluTanh>(gate, up, n, out);
        case kRelu:
            return gated_row<kRelu>(gate, up, n, out);
        case kSigmoid:
            return gated_row<kSigmoid>(gate, up, n, out);
        default:
            return gated_row<kTanh>(gate, up, n, out);
    }
}

}  // namespace

void fill_rows(KernelTable& table) {
    table.rows.rms_norm = rms_norm;
    table.rows.activate = activate;
    table.rows.gated = gated;
}

}  // namespace tektra::avx512
