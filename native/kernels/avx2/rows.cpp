// Row-wise kernels: norms, rotary positions, activations.
#include <cmath>
#include <cstring>

#include "../shared/activations.h"
#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    constexpr size_t kSums = 4;  // that hide how long an addition takes
    __m256 sums[kSums] = {};
    size_t i = 0;
    for (; i + 8 * kSums <= n; i += 8 * kSums) {
        for (size_t s = 0; s < kSums; ++s) {
            const __m256 v = _mm256_loadu_ps(x + i + 8 * s);
            sums[s] = _mm256_fmadd_ps(v, v, sums[s]);
        }
    }
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        sums[0] = _mm256_fmadd_ps(v, v, sums[0]);
    }
    float total =
        sum_lanes(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    for (; i < n; ++i) total += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
    const __m256 factors = _mm256_set1_ps(factor);
    i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), factors);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)));
    }
    for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, size_t n, float eps,
                float* out) {
    constexpr size_t kSums = 4;
    __m256 sums[kSums] = {};
    size_t i = 0;
    for (; i + 8 * kSums <= n; i += 8 * kSums) {
        for (size_t s = 0; s < kSums; ++s) {
            sums[s] = _mm256_add_ps(sums[s], _mm256_loadu_ps(x + i + 8 * s));
        }
    }
    for (; i + 8 <= n; i += 8) sums[0] = _mm256_add_ps(sums[0], _mm256_loadu_ps(x + i));
    auto total = [&] {
        return sum_lanes(
            _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    };
    float sum = total();
    for (; i < n; ++i) sum += x[i];
    const float mean = sum / static_cast<float>(n);
    const __m256 means = _mm256_set1_ps(mean);
    for (__m256& s : sums) s = _mm256_setzero_ps();
    for (i = 0; i + 8 * kSums <= n; i += 8 * kSums) {
        for (size_t s = 0; s < kSums; ++s) {
            const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * s), means);
            sums[s] = _mm256_fmadd_ps(v, v, sums[s]);
        }
    }
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + i), means);
        sums[0] = _mm256_fmadd_ps(v, v, sums[0]);
    }
    float squares = total();
    for (; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    const __m256 factors = _mm256_set1_ps(factor);
    for (i = 0; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), means), factors);
        __m256 y = _mm256_mul_ps(v, _mm256_loadu_ps(weight + i));
        if (bias != nullptr) y = _mm256_add_ps(y, _mm256_loadu_ps(bias + i));
        _mm256_storeu_ps(out + i, y);
    }
    for (; i < n; ++i) {
        out[i] = (x[i] - mean) * factor * weight[i] + (bias != nullptr ? bias[i] : 0.0f);
    }
}

void rope_interleaved(const float* x, const float* cos, const float* sin, size_t heads,
                      size_t head_dim, size_t dim, float* out) {
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (size_t h = 0; h < heads; ++h, x += head_dim, out += head_dim) {
        size_t i = 0;
        for (; i + 4 <= dim / 2; i += 4) {
            const __m256 v = _mm256_loadu_ps(x + 2 * i);
            const __m256 swapped = _mm256_permute_ps(v, 0xb1);
            const __m256 c =
                _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos + i)), twice);
            const __m256 s =
                _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sin + i)), twice);
            _mm256_storeu_ps(out + 2 * i,
                             _mm256_addsub_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(swapped, s)));
        }
        for (; i < dim / 2; ++i) {
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
        size_t i = 0;
        for (; i + 8 <= half; i += 8) {
            const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
            const __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
            _mm256_storeu_ps(out + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(out + i + half,
                             _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
        }
        for (; i < half; ++i) {
            const float a = x[i], b = x[i + half];
            out[i] = a * cos[i] - b * sin[i];
            out[i + half] = b * cos[i] + a * sin[i];
        }
        if (out != x) std::memcpy(out + dim, x + dim, (head_dim - dim) * sizeof(float));
    }
}

inline __m256 sigmoid(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 e = exp(_mm256_sub_ps(_mm256_setzero_ps(), x));
    return _mm256_div_ps(one, _mm256_add_ps(one, e));
}

template <int kFunction>
inline __m256 apply(__m256 x) {
    if constexpr (kFunction == kSilu) return _mm256_mul_ps(x, sigmoid(x));
    if constexpr (kFunction == kSigmoid) return sigmoid(x);
    if constexpr (kFunction == kTanh) return tanh(x);
    if constexpr (kFunction == kRelu) return _mm256_max_ps(x, _mm256_setzero_ps());
    if constexpr (kFunction == kGelu) {
        const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), one = _mm256_set1_ps(1.0f);
        const __m256 z = _mm256_mul_ps(size, _mm256_set1_ps(0.70710678118654752440f));
        const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(_mm256_set1_ps(kErfcSlope), z, one));
        __m256 p = _mm256_set1_ps(kErfc[4]);
        for (int i = 3; i >= 0; --i) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErfc[i]));
        const __m256 e = exp(_mm256_fnmadd_ps(z, z, _mm256_setzero_ps()));
        const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(p, t), e);
        const __m256 half = _mm256_mul_ps(_mm256_set1_ps(0.5f), size);
        return _mm256_fnmadd_ps(half, tail, _mm256_max_ps(_mm256_setzero_ps(), x));
    }
    if constexpr (kFunction == kGeluTanh) {
        const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
        const __m256 inner = _mm256_mul_ps(_mm256_set1_ps(0.79788456080286535588f),
                                           _mm256_fmadd_ps(_mm256_set1_ps(0.044715f), cube, x));
        const __m256 half = _mm256_mul_ps(_mm256_set1_ps(0.5f), x);
        return _mm256_fmadd_ps(half, tanh(inner), half);
    }
}

// A row may end in the middle of a vector: the rest goes through a padded copy, so that every
// element is computed by the same instructions.
struct Loops {
    template <int kFunction>
    static void gated(const float* gate, const float* up, size_t n, float* out) {
        size_t i = 0;
        for (; i + 8 <= n; i += 8) {
            __m256 g = apply<kFunction>(_mm256_loadu_ps(gate + i));
            if (up != nullptr) g = _mm256_mul_ps(g, _mm256_loadu_ps(up + i));
            _mm256_storeu_ps(out + i, g);
        }
        if (i < n) {
            alignas(32) float rest[8] = {};
            std::memcpy(rest, gate + i, (n - i) * sizeof(float));
            _mm256_store_ps(rest, apply<kFunction>(_mm256_load_ps(rest)));
            for (size_t j = 0; i + j < n; ++j) {
                out[i + j] = up != nullptr ? rest[j] * up[i + j] : rest[j];
            }
        }
    }
};

void add(const float* a, const float* b, size_t n, float* out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
    }
    for (; i < n; ++i) out[i] = a[i] + b[i];
}

void mul(const float* a, const float* b, size_t n, float* out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
    }
    for (; i < n; ++i) out[i] = a[i] * b[i];
}

void scale(const float* x, size_t n, float factor, float* out) {
    const __m256 factors = _mm256_set1_ps(factor);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), factors));
    }
    for (; i < n; ++i) out[i] = x[i] * factor;
}

void to_half(const float* x, size_t n, half_t* out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(out + i),
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    for (; i < n; ++i) {
        out[i] =
            static_cast<half_t>(_cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
}

}  // namespace

void fill_rows(KernelTable& table) {
    RowKernels& rows = table.rows;  // softcap stays scalar: few models have it
    rows.rms_norm = rms_norm;
    rows.layer_norm = layer_norm;
    rows.rope_interleaved = rope_interleaved;
    rows.rope_half = rope_half;
    fill_activations<Loops>(rows);
    rows.add = add;
    rows.mul = mul;
    rows.scale = scale;
    rows.to_half = to_half;
}

}  // namespace tektra::avx2
