// Linear layers, plainly: the truth that the other instruction sets are held against.
// Quantized: an integer dot product per 16 elements, scaled and summed along the width.
#include <cstring>

#include "../../core/half.h"
#include "fields.h"
#include "pack.h"
#include "tables.h"

namespace tektra::scalar {
namespace {

constexpr size_t kSub = 32;
constexpr size_t kHalf = 16;
constexpr int kLanes = 8;

// 32 elements of one row, as the dot product wants them: w = scale[half] * q + min[half].
struct Sub {
    int q[kSub];
    float scale[2];
    float min[2];
};

template <int kBits>
inline void get_all(const Fields<kLanes, kBits>& fields, size_t lane, Sub& sub) {
    for (size_t e = 0; e < kSub; ++e) sub.q[e] = get_field(fields, e / 4, 4 * lane + e % 4);
}

inline void both(Sub& sub, float scale, float min) {
    sub.scale[0] = sub.scale[1] = scale;
    sub.min[0] = sub.min[1] = min;
}

void load(const PackedQ4_0<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    const float d = half_to_float(p.d[lane]);
    both(sub, d, -8.0f * d);
}

void load(const PackedQ4_1<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    both(sub, half_to_float(p.d[lane]), half_to_float(p.m[lane]));
}

void load(const PackedQ5_0<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    const float d = half_to_float(p.d[lane]);
    both(sub, d, -16.0f * d);
}

void load(const PackedQ5_1<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    both(sub, half_to_float(p.d[lane]), half_to_float(p.m[lane]));
}

void load(const PackedQ8_0<kLanes>& p, size_t, size_t lane, Sub& sub) {
    for (size_t e = 0; e < kSub; ++e) sub.q[e] = p.q[e / 4][4 * lane + e % 4];
    both(sub, half_to_float(p.d[lane]), 0.0f);
}

void load(const PackedQ2_K<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    const float d = half_to_float(p.d[lane]), dmin = half_to_float(p.dmin[lane]);
    for (size_t h = 0; h < 2; ++h) {
        sub.scale[h] = d * static_cast<float>(p.scale[2 * s + h][lane]);
        sub.min[h] = -dmin * static_cast<float>(p.min[2 * s + h][lane]);
    }
}

void load(const PackedQ3_K<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    for (size_t h = 0; h < 2; ++h) {
        sub.scale[h] = half_to_float(p.d[lane]) * static_cast<float>(p.scale[2 * s + h][lane]);
        sub.min[h] = -4.0f * sub.scale[h];
    }
}

void load(const PackedQ4_K<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    both(sub, half_to_float(p.d[lane]) * static_cast<float>(p.scale[s][lane]),
         -half_to_float(p.dmin[lane]) * static_cast<float>(p.min[s][lane]));
}

void load(const PackedQ5_K<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    both(sub, half_to_float(p.d[lane]) * static_cast<float>(p.scale[s][lane]),
         -half_to_float(p.dmin[lane]) * static_cast<float>(p.min[s][lane]));
}

void load(const PackedQ6_K<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    for (size_t h = 0; h < 2; ++h) {
        sub.scale[h] = half_to_float(p.d[lane]) * static_cast<float>(p.scale[2 * s + h][lane]);
        sub.min[h] = -32.0f * sub.scale[h];
    }
}

// Fields of a super-block as levels, with scales of 16 or 32 elements each.
template <class Packed>
void load_levels(const Packed& p, size_t s, size_t lane, float factor, const Levels& levels,
                 Sub& sub) {
    get_all(p.q[s], lane, sub);
    for (int& q : sub.q) q = levels.at[q] - levels.offset;
    constexpr size_t kScales = sizeof p.scale / sizeof p.scale[0] / 8;
    for (size_t h = 0; h < 2; ++h) {
        const auto scale = p.scale[kScales * s + h * (kScales - 1)][lane];
        sub.scale[h] = half_to_float(p.d[lane]) * factor * static_cast<float>(scale);
        sub.min[h] = 0.0f;
    }
}

struct IQ2_XXS : PackedIQ2_XXS<kLanes> {};
struct IQ2_S : PackedIQ2_S<kLanes> {};
struct IQ3_XXS : PackedIQ3<kLanes> {};
struct IQ3_S : PackedIQ3<kLanes> {};
struct IQ1_M : PackedIQ1_M<kLanes> {};
struct IQ4_XS : PackedIQ4_XS<kLanes> {};

void load(const IQ2_XXS& p, size_t s, size_t lane, Sub& sub) {
    load_levels(p, s, lane, 0.125f, kLevelsIQ2, sub);
}

void load(const IQ2_S& p, size_t s, size_t lane, Sub& sub) {
    load_levels(p, s, lane, 0.125f, kLevelsIQ2, sub);
}

void load(const IQ3_XXS& p, size_t s, size_t lane, Sub& sub) {
    load_levels(p, s, lane, 0.5f, kLevelsIQ3, sub);
}

void load(const IQ3_S& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    const float scale = half_to_float(p.d[lane]) * static_cast<float>(p.scale[s][lane]);
    both(sub, 2.0f * scale, -15.0f * scale);
}

void load(const IQ1_M& p, size_t s, size_t lane, Sub& sub) {
    load_levels(p, s, lane, 0.25f, kLevelsIQ1, sub);
    for (size_t h = 0; h < 2; ++h) sub.min[h] = -4.5f * sub.scale[h];
}

void load(const IQ4_XS& p, size_t s, size_t lane, Sub& sub) {
    load_levels(p, s, lane, 1.0f, kLevelsIQ4, sub);
}

void load(const PackedIQ1_S<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    const float d = half_to_float(p.d[lane]);
    both(sub, d * static_cast<float>(p.scale[s][lane]),
         -0.125f * d * static_cast<float>(p.min[s][lane]));
}

void load(const PackedIQ4_NL<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    for (int& q : sub.q) q = kLevelsIQ4.at[q] - kLevelsIQ4.offset;
    both(sub, half_to_float(p.d[lane]), 0.0f);
}

void load(const PackedMXFP4<kLanes>& p, size_t, size_t lane, Sub& sub) {
    get_all(p.q, lane, sub);
    for (int& q : sub.q) q = kLevelsFP4.at[q] - kLevelsFP4.offset;
    both(sub, half_of_e8m0(p.e[lane]), 0.0f);
}

void load(const PackedNVFP4<kLanes>& p, size_t s, size_t lane, Sub& sub) {
    get_all(p.q[s], lane, sub);
    for (int& q : sub.q) q = kLevelsFP4.at[q] - kLevelsFP4.offset;
    for (size_t h = 0; h < 2; ++h) {
        sub.scale[h] = half_to_float(p.scale[2 * s + h][lane]);
        sub.min[h] = 0.0f;
    }
}

template <int kWidth>
void load(const PackedTwoBits<kLanes, kWidth>& p, size_t s, size_t lane, Sub& sub) {
    // the remainder keeps GCC from merging these, and then from seeing a block of another width
    get_all(p.q[s % (kWidth / kSub)], lane, sub);
    const float d = half_to_float(p.d[lane]);
    both(sub, d, -d);
}

inline float start_of(const LinearTask& t, size_t row, size_t column) {
    float value = t.bias != nullptr ? t.bias[column] : 0.0f;
    if (t.addend != nullptr) value += t.addend[row * t.addend_stride + column];
    return value;
}

inline float products(const Sub& sub, const uint8_t* block) {
    ActivationBlock a;
    std::memcpy(&a, block, sizeof a);
    float sum = 0.0f;
    for (size_t h = 0; h < 2; ++h) {
        int product = 0, plain = 0;
        for (size_t e = kHalf * h; e < kHalf * (h + 1); ++e) {
            product += sub.q[e] * a.q[e];
            plain += a.q[e];
        }
        sum += a.scale[h] * (sub.scale[h] * static_cast<float>(product) +
                             sub.min[h] * static_cast<float>(plain));
    }
    return sum;
}

template <class Packed, size_t kWidth>
void linear(const LinearTask& t) {
    const size_t blocks = t.width / kWidth, term_bytes = t.x_stride / t.terms;
    for (size_t g = t.group_begin; g < t.group_end; ++g) {
        for (size_t lane = 0; lane < kLanes && g * kLanes + lane < t.out_width; ++lane) {
            const size_t column = g * kLanes + lane;
            // rows are innermost so that a block of weights is unpacked once for some of them
            constexpr size_t kRows = 16;
            const size_t share = kRows / t.terms;
            for (size_t first = 0; first < t.num_rows; first += share) {
                const size_t rows = t.num_rows - first < share ? t.num_rows - first : share;
                const uint8_t* x = t.x + first * t.x_stride;
                float sums[kRows] = {};
                for (size_t b = 0; b < blocks; ++b) {
                    Packed packed;
                    std::memcpy(&packed, t.weights + (g * blocks + b) * sizeof packed,
                                sizeof packed);
                    for (size_t s = 0; s < kWidth / kSub; ++s) {
                        Sub sub;
                        load(packed, s, lane, sub);
                        const size_t at = (b * kWidth / kSub + s) * sizeof(ActivationBlock);
                        for (size_t r = 0; r < rows * t.terms; ++r) {
                            sums[r] += products(sub, x + r * term_bytes + at);
                        }
                    }
                }
                for (size_t r = 0; r < rows; ++r) {
                    float value = 0.0f;
                    for (size_t i = r * t.terms; i < (r + 1) * t.terms; ++i) {
                        float d;
                        std::memcpy(&d,
                                    x + i * term_bytes + t.width / kSub * sizeof(ActivationBlock),
                                    sizeof d);
                        value += sums[i] * d;
                    }
                    const size_t row = first + r;
                    t.out[row * t.out_stride + column] = value + start_of(t, row, column);
                }
            }
        }
    }
}

float same(float value) {
    return value;
}

template <class Packed, auto to_float>
void linear_float(const LinearTask& t) {
    for (size_t g = t.group_begin; g < t.group_end; ++g) {
        const uint8_t* group = t.weights + g * t.width * sizeof(Packed);
        for (size_t row = 0; row < t.num_rows; ++row) {
            const auto* x = reinterpret_cast<const float*>(t.x + row * t.x_stride);
            float sums[kLanes] = {};
            for (size_t k = 0; k < t.width; ++k) {
                Packed packed;
                std::memcpy(&packed, group + k * sizeof packed, sizeof packed);
                for (size_t lane = 0; lane < kLanes; ++lane) {
                    sums[lane] += x[k] * to_float(packed.w[lane]);
                }
            }
            for (size_t lane = 0; lane < kLanes && g * kLanes + lane < t.out_width; ++lane) {
                const size_t column = g * kLanes + lane;
                t.out[row * t.out_stride + column] = sums[lane] + start_of(t, row, column);
            }
        }
    }
}

}  // namespace

void fill_linear(KernelTable& table) {
    fill_packing<kLanes>(table);
    auto run = [&](WeightType type, void (*kernel)(const LinearTask&)) {
        table.linear[static_cast<int>(type)].run = kernel;
    };
    run(WeightType::F32, linear_float<PackedFloat<kLanes, float>, same>);
    run(WeightType::F16, linear_float<PackedFloat<kLanes, half_t>, half_to_float>);
    run(WeightType::BF16, linear_float<PackedFloat<kLanes, uint16_t>, bfloat_to_float>);
    run(WeightType::Q4_0, linear<PackedQ4_0<kLanes>, kLegacyWidth>);
    run(WeightType::Q4_1, linear<PackedQ4_1<kLanes>, kLegacyWidth>);
    run(WeightType::Q5_0, linear<PackedQ5_0<kLanes>, kLegacyWidth>);
    run(WeightType::Q5_1, linear<PackedQ5_1<kLanes>, kLegacyWidth>);
    run(WeightType::Q8_0, linear<PackedQ8_0<kLanes>, kLegacyWidth>);
    run(WeightType::Q2_K, linear<PackedQ2_K<kLanes>, kSuperWidth>);
    run(WeightType::Q3_K, linear<PackedQ3_K<kLanes>, kSuperWidth>);
    run(WeightType::Q4_K, linear<PackedQ4_K<kLanes>, kSuperWidth>);
    run(WeightType::Q5_K, linear<PackedQ5_K<kLanes>, kSuperWidth>);
    run(WeightType::Q6_K, linear<PackedQ6_K<kLanes>, kSuperWidth>);
    run(WeightType::IQ2_XXS, linear<IQ2_XXS, kSuperWidth>);
    run(WeightType::IQ2_XS, linear<IQ2_S, kSuperWidth>);
    run(WeightType::IQ2_S, linear<IQ2_S, kSuperWidth>);
    run(WeightType::IQ3_XXS, linear<IQ3_XXS, kSuperWidth>);
    run(WeightType::IQ3_S, linear<IQ3_S, kSuperWidth>);
    run(WeightType::IQ1_S, linear<PackedIQ1_S<kLanes>, kSuperWidth>);
    run(WeightType::IQ1_M, linear<IQ1_M, kSuperWidth>);
    run(WeightType::IQ4_NL, linear<PackedIQ4_NL<kLanes>, kLegacyWidth>);
    run(WeightType::IQ4_XS, linear<IQ4_XS, kSuperWidth>);
    run(WeightType::TQ1_0, linear<PackedTwoBits<kLanes, 256>, 256>);
    run(WeightType::TQ2_0, linear<PackedTwoBits<kLanes, 256>, 256>);
    run(WeightType::MXFP4, linear<PackedMXFP4<kLanes>, kLegacyWidth>);
    run(WeightType::NVFP4, linear<PackedNVFP4<kLanes>, 64>);
    run(WeightType::Q1_0, linear<PackedTwoBits<kLanes, 128>, 128>);
    run(WeightType::Q2_0, linear<PackedTwoBits<kLanes, 64>, 64>);
}

}  // namespace tektra::scalar
