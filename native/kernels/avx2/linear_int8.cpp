// Quantized linear layers on int8 activations: eight matrix rows at a time.
//
// A register holds four elements of eight rows; multiplied (unsigned x signed) with the four
// activations in every lane it gives two int16 partial sums a row. As many of these are added in
// int16 as the range of the format allows, then widened to one int32 a row, converted, and added
// to the row's float sum with the scales of the block, which are vectors as well.
// Several activation rows share the unpacking of a block. Each row's own sequence of operations is
// the same whatever the number of rows, so batch and single results are equal to the bit.
#include <cstring>

#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

constexpr size_t kSub = 32;  // elements between two additions to the float sums

struct Weights {
    __m256i q[8];
    __m256 scale[2];
    __m256 min[2];
};

inline __m256i load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

inline void unpack_nibbles(const Nibbles& packed, __m256i* q) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
        const __m256i both = load(packed + 32 * j);
        q[j] = _mm256_and_si256(both, mask);
        q[j + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
    }
}

// q[j] |= bit j of each byte << kTo
template <int kTo>
inline void add_bits(const Bits& packed, __m256i* q) {
    const __m256i bits = load(packed);
    const __m256i mask = _mm256_set1_epi8(1 << kTo);
    for (int j = 0; j < 8; ++j) {
        const __m256i moved =
            j <= kTo ? _mm256_slli_epi16(bits, kTo - j) : _mm256_srli_epi16(bits, j - kTo);
        q[j] = _mm256_or_si256(q[j], _mm256_and_si256(moved, mask));
    }
}

inline void unpack_pairs(const BitPairs& packed, __m256i* q) {
    const __m256i mask = _mm256_set1_epi8(3);
    for (int h = 0; h < 2; ++h) {
        const __m256i four = load(packed + 32 * h);
        q[4 * h] = _mm256_and_si256(four, mask);
        q[4 * h + 1] = _mm256_and_si256(_mm256_srli_epi16(four, 2), mask);
        q[4 * h + 2] = _mm256_and_si256(_mm256_srli_epi16(four, 4), mask);
        q[4 * h + 3] = _mm256_and_si256(_mm256_srli_epi16(four, 6), mask);
    }
}

// q[j] |= pair of bits << 4
inline void add_pairs(const BitPairs& packed, __m256i* q) {
    const __m256i mask = _mm256_set1_epi8(0x30);
    for (int h = 0; h < 2; ++h) {
        const __m256i four = load(packed + 32 * h);
        const __m256i moved[4] = {_mm256_slli_epi16(four, 4), _mm256_slli_epi16(four, 2), four,
                                  _mm256_srli_epi16(four, 2)};
        for (int s = 0; s < 4; ++s) {
            q[4 * h + s] = _mm256_or_si256(q[4 * h + s], _mm256_and_si256(moved[s], mask));
        }
    }
}

inline __m256 widen(const uint8_t* bytes) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}
inline __m256 widen(const int8_t* bytes) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}

inline __m256 times(__m256 v, float factor) {
    return _mm256_mul_ps(v, _mm256_set1_ps(factor));
}

// A format: its packed block, its width, how many scales 32 elements have, whether there is a
// constant part (min), how many int16 products can be added before widening, and the unpacking.
// Products of a pair are at most 2 * 127 * largest q.

struct Q4_0 {
    using Packed = PackedQ4_0;
    static constexpr size_t kWidth = kLegacyWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 8;  // 8 * 2 * 127 * 15 = 30480
    static inline void unpack(const Packed& p, size_t, Weights& w) {
        unpack_nibbles(p.q, w.q);
        w.scale[0] = load_half(p.d);
        w.min[0] = times(w.scale[0], -8.0f);
    }
};

struct Q4_1 {
    using Packed = PackedQ4_1;
    static constexpr size_t kWidth = kLegacyWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 8;
    static inline void unpack(const Packed& p, size_t, Weights& w) {
        unpack_nibbles(p.q, w.q);
        w.scale[0] = load_half(p.d);
        w.min[0] = load_half(p.m);
    }
};

struct Q5_0 {
    using Packed = PackedQ5_0;
    static constexpr size_t kWidth = kLegacyWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 4;  // 4 * 2 * 127 * 31 = 31496
    static inline void unpack(const Packed& p, size_t, Weights& w) {
        unpack_nibbles(p.q, w.q);
        add_bits<4>(p.high, w.q);
        w.scale[0] = load_half(p.d);
        w.min[0] = times(w.scale[0], -16.0f);
    }
};

struct Q5_1 {
    using Packed = PackedQ5_1;
    static constexpr size_t kWidth = kLegacyWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 4;
    static inline void unpack(const Packed& p, size_t, Weights& w) {
        unpack_nibbles(p.q, w.q);
        add_bits<4>(p.high, w.q);
        w.scale[0] = load_half(p.d);
        w.min[0] = load_half(p.m);
    }
};

struct Q8_0 {
    using Packed = PackedQ8_0;
    static constexpr size_t kWidth = kLegacyWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = false, kSigned = true;
    static constexpr int kChain = 1;  // 2 * 127 * 128 = 32512
    static inline void unpack(const Packed& p, size_t, Weights& w) {
        for (int j = 0; j < 8; ++j) w.q[j] = load(p.q[j]);
        w.scale[0] = load_half(p.d);
    }
};

struct Q2_K {
    using Packed = PackedQ2_K;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr int kScales = 2;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 8;  // 8 * 2 * 127 * 3
    static inline void unpack(const Packed& p, size_t s, Weights& w) {
        unpack_pairs(p.q[s], w.q);
        const __m256 d = load_half(p.d);
        const __m256 dmin = times(load_half(p.dmin), -1.0f);
        for (int h = 0; h < 2; ++h) {
            w.scale[h] = _mm256_mul_ps(d, widen(p.scale[2 * s + h]));
            w.min[h] = _mm256_mul_ps(dmin, widen(p.min[2 * s + h]));
        }
    }
};

struct Q3_K {
    using Packed = PackedQ3_K;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr int kScales = 2;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 8;  // 8 * 2 * 127 * 7 = 14224
    static inline void unpack(const Packed& p, size_t s, Weights& w) {
        unpack_pairs(p.q[s], w.q);
        add_bits<2>(p.high[s], w.q);
        const __m256 d = load_half(p.d);
        for (int h = 0; h < 2; ++h) {
            w.scale[h] = _mm256_mul_ps(d, widen(p.scale[2 * s + h]));
            w.min[h] = times(w.scale[h], -4.0f);
        }
    }
};

struct Q4_K {
    using Packed = PackedQ4_K;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 8;
    static inline void unpack(const Packed& p, size_t s, Weights& w) {
        unpack_nibbles(p.q[s], w.q);
        w.scale[0] = _mm256_mul_ps(load_half(p.d), widen(p.scale[s]));
        w.min[0] = times(_mm256_mul_ps(load_half(p.dmin), widen(p.min[s])), -1.0f);
    }
};

struct Q5_K {
    using Packed = PackedQ5_K;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr int kScales = 1;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 4;
    static inline void unpack(const Packed& p, size_t s, Weights& w) {
        unpack_nibbles(p.q[s], w.q);
        add_bits<4>(p.high[s], w.q);
        w.scale[0] = _mm256_mul_ps(load_half(p.d), widen(p.scale[s]));
        w.min[0] = times(_mm256_mul_ps(load_half(p.dmin), widen(p.min[s])), -1.0f);
    }
};

struct Q6_K {
    using Packed = PackedQ6_K;
    static constexpr size_t kWidth = kSuperWidth;
    static constexpr int kScales = 2;
    static constexpr bool kMin = true, kSigned = false;
    static constexpr int kChain = 2;  // 2 * 2 * 127 * 63 = 32004
    static inline void unpack(const Packed& p, size_t s, Weights& w) {
        unpack_nibbles(p.q[s], w.q);
        add_pairs(p.high[s], w.q);
        const __m256 d = load_half(p.d);
        for (int h = 0; h < 2; ++h) {
            w.scale[h] = _mm256_mul_ps(d, widen(p.scale[2 * s + h]));
            w.min[h] = times(w.scale[h], -32.0f);
        }
    }
};

// Dot products of kCount registers with 4 * kCount activations: int32 in each row's lane.
template <int kCount, int kChain, bool kSigned>
inline __m256i dot(const __m256i* q, const int8_t* x) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i total = _mm256_setzero_si256();
    for (int j = 0; j < kCount; j += kChain) {
        __m256i sum = _mm256_setzero_si256();
        for (int i = j; i < j + kChain && i < kCount; ++i) {
            int32_t four;
            std::memcpy(&four, x + 4 * i, sizeof four);
            const __m256i a = _mm256_set1_epi32(four);
            __m256i product;
            if constexpr (kSigned) {  // |q| * (sign of q) a: q * a from an unsigned first factor
                product =
                    _mm256_maddubs_epi16(_mm256_sign_epi8(q[i], q[i]), _mm256_sign_epi8(a, q[i]));
            } else {
                product = _mm256_maddubs_epi16(q[i], a);
            }
            sum = i == j ? product : _mm256_add_epi16(sum, product);
        }
        const __m256i wide = _mm256_madd_epi16(sum, ones);
        total = j == 0 ? wide : _mm256_add_epi32(total, wide);
    }
    return total;
}

template <class F>
inline __m256 accumulate(const Weights& w, const int8_t* x, const ActivationScale& a, __m256 sum) {
    const __m256 low = _mm256_cvtepi32_ps(dot<4, F::kChain, F::kSigned>(w.q, x));
    const __m256 high = _mm256_cvtepi32_ps(dot<4, F::kChain, F::kSigned>(w.q + 4, x + 16));
    const __m256 scale_low = _mm256_set1_ps(a.scale[0]), scale_high = _mm256_set1_ps(a.scale[1]);
    if constexpr (F::kScales == 1) {
        const __m256 part = _mm256_fmadd_ps(high, scale_high, _mm256_mul_ps(low, scale_low));
        sum = _mm256_fmadd_ps(part, w.scale[0], sum);
        if constexpr (F::kMin) sum = _mm256_fmadd_ps(w.min[0], _mm256_set1_ps(a.total), sum);
    } else {
        sum = _mm256_fmadd_ps(_mm256_mul_ps(low, w.scale[0]), scale_low, sum);
        sum = _mm256_fmadd_ps(_mm256_mul_ps(high, w.scale[1]), scale_high, sum);
        if constexpr (F::kMin) {
            sum = _mm256_fmadd_ps(w.min[0], _mm256_set1_ps(a.sum[0]), sum);
            sum = _mm256_fmadd_ps(w.min[1], _mm256_set1_ps(a.sum[1]), sum);
        }
    }
    return sum;
}

inline void store(const LinearTask& t, size_t group, size_t row, __m256 sum) {
    const size_t column = group * kLanes;
    float* out = t.out + row * t.out_stride + column;
    const float* addend = t.addend != nullptr ? t.addend + row * t.addend_stride + column : nullptr;
    if (column + kLanes <= t.out_width) {
        if (t.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(t.bias + column));
        if (addend != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(addend));
        _mm256_storeu_ps(out, sum);
        return;
    }
    alignas(32) float values[kLanes];
    _mm256_store_ps(values, sum);
    for (size_t lane = 0; column + lane < t.out_width; ++lane) {
        float value = values[lane];
        if (t.bias != nullptr) value += t.bias[column + lane];
        if (addend != nullptr) value += addend[lane];
        out[lane] = value;
    }
}

// One group of eight matrix rows times kRows activation rows.
template <class F, int kRows>
inline void tile(const LinearTask& t, size_t group, size_t row) {
    const size_t blocks = t.width / F::kWidth;
    const auto* packed = reinterpret_cast<const typename F::Packed*>(t.weights) + group * blocks;
    const int8_t* x[kRows];
    const ActivationScale* scales[kRows];
    __m256 sums[kRows];
    for (int r = 0; r < kRows; ++r) {
        x[r] = reinterpret_cast<const int8_t*>(t.x + (row + r) * t.x_stride);
        scales[r] = reinterpret_cast<const ActivationScale*>(x[r] + t.width);
        sums[r] = _mm256_setzero_ps();
    }
    size_t at = 0;
    for (size_t b = 0; b < blocks; ++b) {
        if constexpr (kRows == 1) {
            // one row reads the weights once, as fast as memory gives them
            const char* ahead = reinterpret_cast<const char*>(packed + b) + 2048;
            for (size_t line = 0; line < sizeof(typename F::Packed); line += 64) {
                _mm_prefetch(ahead + line, _MM_HINT_T0);
            }
        }
        for (size_t s = 0; s < F::kWidth / kSub; ++s, ++at) {
            Weights w;
            F::unpack(packed[b], s, w);
            for (int r = 0; r < kRows; ++r) {
                sums[r] = accumulate<F>(w, x[r] + at * kSub, scales[r][at], sums[r]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) store(t, group, row + r, sums[r]);
}

template <class F>
void run(const LinearTask& t) {
    // a chunk of weights stays in the first-level cache while all rows pass over it
    constexpr size_t kChunkBytes = 16 * 1024;
    const size_t group_bytes = t.width / F::kWidth * sizeof(typename F::Packed);
    const size_t chunk =
        t.num_rows == 1 || group_bytes >= kChunkBytes ? 1 : kChunkBytes / group_bytes;
    for (size_t begin = t.group_begin; begin < t.group_end; begin += chunk) {
        const size_t end = begin + chunk < t.group_end ? begin + chunk : t.group_end;
        size_t row = 0;
        for (; row + 4 <= t.num_rows; row += 4) {
            for (size_t g = begin; g < end; ++g) tile<F, 4>(t, g, row);
        }
        for (size_t g = begin; g < end; ++g) {
            switch (t.num_rows - row) {
                case 3:
                    tile<F, 3>(t, g, row);
                    break;
                case 2:
                    tile<F, 2>(t, g, row);
                    break;
                case 1:
                    tile<F, 1>(t, g, row);
                    break;
                default:
                    break;
            }
        }
    }
}

}  // namespace

void fill_linear_int8(KernelTable& table) {
    auto entry = [&](WeightType type, void (*kernel)(const LinearTask&)) {
        table.linear[static_cast<int>(type)].run = kernel;
    };
    entry(WeightType::Q4_0, run<Q4_0>);
    entry(WeightType::Q4_1, run<Q4_1>);
    entry(WeightType::Q5_0, run<Q5_0>);
    entry(WeightType::Q5_1, run<Q5_1>);
    entry(WeightType::Q8_0, run<Q8_0>);
    entry(WeightType::Q2_K, run<Q2_K>);
    entry(WeightType::Q3_K, run<Q3_K>);
    entry(WeightType::Q4_K, run<Q4_K>);
    entry(WeightType::Q5_K, run<Q5_K>);
    entry(WeightType::Q6_K, run<Q6_K>);
}

}  // namespace tektra::avx2
