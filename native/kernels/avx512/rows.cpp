// Row-wise kernels on vectors of sixteen floats: those that gained by them. A row that ends in the
// middle of a vector ends with a mask, so every element is computed by the same instructions.
#include <cmath>

#include "../shared/activations.h"
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

void layer_norm(const float* x, const float* weight, const float* bias, size_t n, float eps,
                float* out) {
    __m512 sums[2] = {};
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        sums[0] = _mm512_add_ps(sums[0], _mm512_loadu_ps(x + i));
        sums[1] = _mm512_add_ps(sums[1], _mm512_loadu_ps(x + i + 16));
    }
    for (; i < n; i += 16) {
        sums[0] = _mm512_add_ps(sums[0], _mm512_maskz_loadu_ps(inside(i, n), x + i));
    }
    const auto count = static_cast<float>(n);
    const __m512 mean =
        _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / count);
    sums[0] = sums[1] = _mm512_setzero_ps();
    for (i = 0; i + 32 <= n; i += 32) {
        const __m512 a = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        const __m512 b = _mm512_sub_ps(_mm512_loadu_ps(x + i + 16), mean);
        sums[0] = _mm512_fmadd_ps(a, a, sums[0]);
        sums[1] = _mm512_fmadd_ps(b, b, sums[1]);
    }
    for (; i < n; i += 16) {
        const __mmask16 some = inside(i, n);
        const __m512 a = _mm512_maskz_sub_ps(some, _mm512_maskz_loadu_ps(some, x + i), mean);
        sums[0] = _mm512_fmadd_ps(a, a, sums[0]);
    }
    const float variance = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / count;
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(variance + eps));
    for (i = 0; i < n; i += 16) {
        const __mmask16 some = inside(i, n);
        const __m512 a = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, x + i), mean);
        __m512 y = _mm512_mul_ps(_mm512_mul_ps(a, factor), _mm512_maskz_loadu_ps(some, weight + i));
        if (bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(some, bias + i));
        _mm512_mask_storeu_ps(out + i, some, y);
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
    if constexpr (kFunction == kGelu) {
        const __m512 size = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f);
        const __m512 z = _mm512_mul_ps(size, _mm512_set1_ps(0.70710678118654752440f));
        const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_set1_ps(kErfcSlope), z, one));
        __m512 p = _mm512_set1_ps(kErfc[4]);
        for (int i = 3; i >= 0; --i) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErfc[i]));
        const __m512 e = exp(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps()));
        const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), e);
        const __m512 half = _mm512_mul_ps(_mm512_set1_ps(0.5f), size);
        return _mm512_fnmadd_ps(half, tail, _mm512_max_ps(_mm512_setzero_ps(), x));
    }
    if constexpr (kFunction == kGeluTanh) {
        const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
        const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.79788456080286535588f),
                                           _mm512_fmadd_ps(_mm512_set1_ps(0.044715f), cube, x));
        const __m512 half = _mm512_mul_ps(_mm512_set1_ps(0.5f), x);
        return _mm512_fmadd_ps(half, tanh(inner), half);
    }
}

struct Loops {
    template <int kFunction>
    static void gated(const float* gate, const float* up, size_t n, float* out) {
        for (size_t i = 0; i < n; i += 16) {
            const __mmask16 some = inside(i, n);
            __m512 g = apply<kFunction>(_mm512_maskz_loadu_ps(some, gate + i));
            if (up != nullptr) g = _mm512_mul_ps(g, _mm512_maskz_loadu_ps(some, up + i));
            _mm512_mask_storeu_ps(out + i, some, g);
        }
    }
};

}  // namespace

void fill_rows(KernelTable& table) {
    table.rows.rms_norm = rms_norm;
    table.rows.layer_norm = layer_norm;
    fill_activations<Loops>(table.rows);
}

}  // namespace tektra::avx512
