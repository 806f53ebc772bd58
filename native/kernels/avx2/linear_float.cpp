// Linear layers with float weights (F32, F16, BF16) on float activations: eight matrix rows at a
// time, one fused multiply-add per element and row, summed along the width in order.
#include "tables.h"
#include "vector.h"

namespace tektra::avx2 {
namespace {

constexpr int kLanes = 8;

struct F32 {
    using Packed = PackedFloat<kLanes, float>;
    static inline __m256 load(const Packed& p) { return _mm256_loadu_ps(p.w); }
};
struct F16 {
    using Packed = PackedFloat<kLanes, half_t>;
    static inline __m256 load(const Packed& p) { return load_half(p.w); }
};
struct BF16 {
    using Packed = PackedFloat<kLanes, uint16_t>;
    static inline __m256 load(const Packed& p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p.w));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
};

inline void store(const LinearTask& t, size_t group, size_t row, __m256 sum) {
    const size_t column = group * kLanes;
    alignas(32) float values[kLanes];
    _mm256_store_ps(values, sum);
    float* out = t.out + row * t.out_stride + column;
    for (size_t lane = 0; lane < kLanes && column + lane < t.out_width; ++lane) {
        float value = values[lane];
        if (t.bias != nullptr) value += t.bias[column + lane];
        if (t.addend != nullptr) value += t.addend[row * t.addend_stride + column + lane];
        out[lane] = value;
    }
}

// kGroups groups of eight matrix rows times kRows activation rows. Independent sums hide the
// latency of the multiply-add; the order within each sum is always the same.
template <class F, int kGroups, int kRows>
inline void tile(const LinearTask& t, size_t group, size_t row) {
    const auto* weights = reinterpret_cast<const typename F::Packed*>(t.weights);
    const typename F::Packed* w[kGroups];
    const float* x[kRows];
    __m256 sums[kGroups][kRows];
    for (int r = 0; r < kRows; ++r) {
        x[r] = reinterpret_cast<const float*>(t.x + (row + r) * t.x_stride);
    }
    for (int g = 0; g < kGroups; ++g) {
        w[g] = weights + (group + g) * t.width;
        for (int r = 0; r < kRows; ++r) sums[g][r] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < t.width; ++k) {
        __m256 loaded[kGroups];
        for (int g = 0; g < kGroups; ++g) loaded[g] = F::load(w[g][k]);
        for (int r = 0; r < kRows; ++r) {
            const __m256 a = _mm256_set1_ps(x[r][k]);
            for (int g = 0; g < kGroups; ++g) {
                sums[g][r] = _mm256_fmadd_ps(loaded[g], a, sums[g][r]);
            }
        }
    }
    for (int g = 0; g < kGroups; ++g) {
        for (int r = 0; r < kRows; ++r) store(t, group + g, row + r, sums[g][r]);
    }
}

template <class F, int kGroups>
inline void rows(const LinearTask& t, size_t group) {
    size_t row = 0;
    for (; row + 4 <= t.num_rows; row += 4) tile<F, kGroups, 4>(t, group, row);
    for (; row < t.num_rows; ++row) tile<F, kGroups, 1>(t, group, row);
}

template <class F>
void run(const LinearTask& t) {
    size_t group = t.group_begin;
    if (t.num_rows == 1) {
        for (; group + 4 <= t.group_end; group += 4) rows<F, 4>(t, group);
    }
    for (; group + 2 <= t.group_end; group += 2) rows<F, 2>(t, group);
    for (; group < t.group_end; ++group) rows<F, 1>(t, group);
}

}  // namespace

void fill_linear_float(KernelTable& table) {
    auto entry = [&](WeightType type, void (*kernel)(const LinearTask&)) {
        table.linear[static_cast<int>(type)].run = kernel;
    };
    entry(WeightType::F32, run<F32>);
    entry(WeightType::F16, run<F16>);
    entry(WeightType::BF16, run<BF16>);
}

}  // namespace tektra::avx2
