// Row-wise kernels: norms, rotary positions, activations, quantization to int8.
#include <cmath>
#include <cstring>

#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

void quantize(const float* x, size_t n, uint8_t* out) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    // packs works within halves of a register: this puts the four results back in order
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i ones8 = _mm256_set1_epi8(1);
    const __m256i ones16 = _mm256_set1_epi16(1);
    for (size_t b = 0; b < n / 32; ++b) {
        const float* block = x + 32 * b;
        ActivationScale a;
        __m256i integers[4];
        for (int h = 0; h < 2; ++h) {
            const __m256 first = _mm256_loadu_ps(block + 16 * h);
            const __m256 second = _mm256_loadu_ps(block + 16 * h + 8);
            const float largest = max_lanes(
                _mm256_max_ps(_mm256_andnot_ps(sign, first), _mm256_andnot_ps(sign, second)));
            const __m256 inverse = _mm256_set1_ps(largest > 0.0f ? 127.0f / largest : 0.0f);
            integers[2 * h] = _mm256_cvtps_epi32(_mm256_mul_ps(first, inverse));
            integers[2 * h + 1] = _mm256_cvtps_epi32(_mm256_mul_ps(second, inverse));
            a.scale[h] = largest / 127.0f;
        }
        const __m256i low = _mm256_packs_epi32(integers[0], integers[1]);
        const __m256i high = _mm256_packs_epi32(integers[2], integers[3]);
        const __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * b), q);
        // sums of the two halves, from products with one
        const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
        const __m128i pairs =
            _mm_hadd_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        const __m128i halves = _mm_hadd_epi32(pairs, pairs);
        a.sum[0] = a.scale[0] * static_cast<float>(_mm_cvtsi128_si32(halves));
        a.sum[1] = a.scale[1] * static_cast<float>(_mm_extract_epi32(halves, 1));
        a.total = a.sum[0] + a.sum[1];
        std::memcpy(out + n + b * sizeof a, &a, sizeof a);
    }
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    __m256 squares = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        squares = _mm256_fmadd_ps(v, v, squares);
    }
    float total = sum_lanes(squares);
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
template <int kFunction>
void activate_row(const float* x, size_t n, float* out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, apply<kFunction>(_mm256_loadu_ps(x + i)));
    }
    if (i < n) {
        alignas(32) float rest[8] = {};
        std::memcpy(rest, x + i, (n - i) * sizeof(float));
        _mm256_store_ps(rest, apply<kFunction>(_mm256_load_ps(rest)));
        std::memcpy(out + i, rest, (n - i) * sizeof(float));
    }
}

template <int kFunction>
void gated_row(const float* gate, const float* up, size_t n, float* out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 g = apply<kFunction>(_mm256_loadu_ps(gate + i));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(g, _mm256_loadu_ps(up + i)));
    }
    if (i < n) {
        alignas(32) float rest[8] = {};
        std::memcpy(rest, gate + i, (n - i) * sizeof(float));
        _mm256_store_ps(rest, apply<kFunction>(_mm256_load_ps(rest)));
        for (size_t j = 0; i + j < n; ++j) out[i + j] = rest[j] * up[i + j];
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
    RowKernels& rows = table.rows;  // layer_norm and softcap stay scalar: few models have them
    rows.quantize = quantize;
    rows.rms_norm = rms_norm;
    rows.rope_interleaved = rope_interleaved;
    rows.rope_half = rope_half;
    rows.activate = activate;
    rows.gated = gated;
    rows.add = add;
    rows.mul = mul;
    rows.scale = scale;
    rows.to_half = to_half;
}

}  // namespace tektra::avx2
