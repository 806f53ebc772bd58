// The sampling kernels for AVX2: eight float32 lanes, summed as two vectors of four float64.
// The same operations in the same order as the scalar file, so the same bits; no fused
// multiply-add for that reason.

#include "tektra/sampling_kernels.h"

#include <immintrin.h>

#include <bit>
#include <limits>

namespace tektra::avx2 {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// For each set of lanes, the lanes to move to the front.
struct FrontLanes {
    alignas(32) std::uint32_t lane[256][8];
};

constexpr FrontLanes make_front_lanes() {
    FrontLanes table{};
    for (unsigned set = 0; set < 256; ++set) {
        unsigned count = 0;
        for (unsigned lane = 0; lane < 8; ++lane) {
            if (set >> lane & 1u) table.lane[set][count++] = lane;
        }
    }
    return table;
}

constexpr FrontLanes kFrontLanes = make_front_lanes();

// The first `count` values, 1 to 7, and -inf in the other lanes.
__m256 load_tail(const float* values, std::size_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
    return _mm256_blendv_ps(_mm256_set1_ps(kNegativeInfinity), _mm256_maskload_ps(values, wanted),
                            _mm256_castsi256_ps(wanted));
}

// 0 where x is below `lowest`, which is at least kLowestExponent.
__m256 exp_nonpositive(__m256 x, __m256 lowest) {
    const __m256 in_range = _mm256_cmp_ps(x, lowest, _CMP_GE_OQ);
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    const __m256 shifted = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), magic);
    const __m256 n = _mm256_sub_ps(shifted, magic);
    __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(0.693359375f)));
    r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(-2.12194440e-4f)));
    __m256 q = _mm256_set1_ps(0x1.6a2434p-10f);
    q = _mm256_add_ps(_mm256_mul_ps(q, r), _mm256_set1_ps(0x1.1239e2p-7f));
    q = _mm256_add_ps(_mm256_mul_ps(q, r), _mm256_set1_ps(0x1.5558f2p-5f));
    q = _mm256_add_ps(_mm256_mul_ps(q, r), _mm256_set1_ps(0x1.555492p-3f));
    q = _mm256_add_ps(_mm256_mul_ps(q, r), _mm256_set1_ps(0x1.fffffcp-2f));
    const __m256 y = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(q, _mm256_mul_ps(r, r)), r),
                                   _mm256_set1_ps(1.0f));
    const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(y),
                                            _mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(scaled), in_range);
}

__m256 scaled_distance(__m256 values, __m256 best, __m256 scale) {
    return _mm256_mul_ps(_mm256_sub_ps(values, best), scale);
}

__m256d low_half(__m256 v) {
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}
__m256d high_half(__m256 v) {
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

double add_lanes(__m256d low, __m256d high) {
    const __m256d four = _mm256_add_pd(low, high);  // 0+4, 1+5, 2+6, 3+7
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

float largest_lane(__m256 v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

bool block_max(const float* values, std::size_t n, float* maxima) {
    __m256 nan = _mm256_setzero_ps();
    std::size_t start = 0;
    for (; start + kSamplingBlock <= n; start += kSamplingBlock) {
        // Two accumulators, for the latency of max.
        __m256 even = _mm256_set1_ps(kNegativeInfinity), odd = even;
        for (std::size_t i = start; i < start + kSamplingBlock; i += 16) {
            const __m256 a = _mm256_loadu_ps(values + i);
            const __m256 b = _mm256_loadu_ps(values + i + 8);
            nan = _mm256_or_ps(nan, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));  // true if either is NaN
            even = _mm256_max_ps(even, a);
            odd = _mm256_max_ps(odd, b);
        }
        maxima[start / kSamplingBlock] = largest_lane(_mm256_max_ps(even, odd));
    }
    if (start < n) {
        __m256 largest = _mm256_set1_ps(kNegativeInfinity);
        for (std::size_t i = start; i < n; i += 8) {
            const __m256 v = n - i < 8 ? load_tail(values + i, n - i) : _mm256_loadu_ps(values + i);
            nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
            largest = _mm256_max_ps(largest, v);
        }
        maxima[start / kSamplingBlock] = largest_lane(largest);
    }
    return _mm256_movemask_ps(nan) != 0;
}

bool masked_copy(const float* values, const std::uint32_t* mask, std::size_t n, float* out) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256 banned = _mm256_set1_ps(kNegativeInfinity);
    __m256 nan = _mm256_setzero_ps();
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(values + i);
        const int byte = static_cast<int>(mask[i / 32] >> (i % 32) & 0xffu);
        const __m256i set = _mm256_and_si256(_mm256_set1_epi32(byte), bits);
        const __m256 allowed = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        _mm256_storeu_ps(out + i, _mm256_blendv_ps(banned, v, allowed));
    }
    bool has_nan = _mm256_movemask_ps(nan) != 0;
    for (; i < n; ++i) {
        has_nan |= values[i] != values[i];
        out[i] = (mask[i / 32] >> (i % 32)) & 1u ? values[i] : kNegativeInfinity;
    }
    return has_nan;
}

double exp_sum(const float* values, std::size_t n, float best, float scale, float lowest) {
    const __m256 lowest8 = _mm256_set1_ps(lowest > kLowestExponent ? lowest : kLowestExponent);
    const __m256 best8 = _mm256_set1_ps(best), scale8 = _mm256_set1_ps(scale);
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(values + i);
        const __m256 w = exp_nonpositive(scaled_distance(v, best8, scale8), lowest8);
        low = _mm256_add_pd(low, low_half(w));
        high = _mm256_add_pd(high, high_half(w));
    }
    if (i < n) {  // the lanes beyond the end weigh 0
        const __m256 v = load_tail(values + i, n - i);
        const __m256 w = exp_nonpositive(scaled_distance(v, best8, scale8), lowest8);
        low = _mm256_add_pd(low, low_half(w));
        high = _mm256_add_pd(high, high_half(w));
    }
    return add_lanes(low, high);
}

ExpMoments exp_moments(const float* values, std::size_t n, float best, float scale) {
    const __m256 best8 = _mm256_set1_ps(best), scale8 = _mm256_set1_ps(scale);
    const __m256 lowest8 = _mm256_set1_ps(kLowestExponent);
    const __m256 stand_in = _mm256_set1_ps(-128.0f);
    __m256d low = _mm256_setzero_pd(), high = low, first_low = low, first_high = low;
    for (std::size_t i = 0; i < n; i += 8) {
        const __m256 v = n - i < 8 ? load_tail(values + i, n - i) : _mm256_loadu_ps(values + i);
        const __m256 x = scaled_distance(v, best8, scale8);
        const __m256 w = exp_nonpositive(x, lowest8);
        const __m256 finite = _mm256_max_ps(x, stand_in);
        low = _mm256_add_pd(low, low_half(w));
        high = _mm256_add_pd(high, high_half(w));
        first_low = _mm256_add_pd(first_low, _mm256_mul_pd(low_half(w), low_half(finite)));
        first_high = _mm256_add_pd(first_high, _mm256_mul_pd(high_half(w), high_half(finite)));
    }
    return {add_lanes(low, high), add_lanes(first_low, first_high)};
}

void exp_weights(const float* values, std::size_t n, float best, float scale, float* out) {
    const __m256 best8 = _mm256_set1_ps(best), scale8 = _mm256_set1_ps(scale);
    const __m256 lowest8 = _mm256_set1_ps(kLowestExponent);
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(values + i);
        _mm256_storeu_ps(out + i, exp_nonpositive(scaled_distance(v, best8, scale8), lowest8));
    }
    if (i < n) {
        alignas(32) float tail[8];
        const __m256 v = load_tail(values + i, n - i);
        _mm256_store_ps(tail, exp_nonpositive(scaled_distance(v, best8, scale8), lowest8));
        for (std::size_t j = 0; i + j < n; ++j) out[i + j] = tail[j];
    }
}

std::size_t collect(const float* values, std::size_t n, float low, std::uint32_t first_id,
                    float* out_values, std::uint32_t* out_ids) {
    const __m256 low8 = _mm256_set1_ps(low);
    __m256i ids = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first_id)),
                                   _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    std::size_t count = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(values + i);
        const auto set =
            static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, low8, _CMP_GE_OQ)));
        // Without asking whether there are any: that cannot be predicted and costs more.
        const __m256i front =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(kFrontLanes.lane[set]));
        _mm256_storeu_ps(out_values + count, _mm256_permutevar8x32_ps(v, front));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out_ids + count),
                            _mm256_permutevar8x32_epi32(ids, front));
        count += static_cast<std::size_t>(_mm_popcnt_u32(set));
        ids = _mm256_add_epi32(ids, _mm256_set1_epi32(8));
    }
    for (; i < n; ++i) {
        out_values[count] = values[i];
        out_ids[count] = first_id + static_cast<std::uint32_t>(i);
        count += values[i] >= low;
    }
    return count;
}

// Where the last terms are 0, leaving them out gives the same bits.
template <std::size_t kTerms>
__m256 weight_at(__m256 place, const __m256* terms) {
    __m256 sum = terms[kTerms - 1];
    for (std::size_t i = kTerms - 1; i-- > 0;) {
        sum = _mm256_add_ps(_mm256_mul_ps(sum, place), terms[i]);
    }
    return sum;
}

// Values whose buckets and weights are worked out before they are added up.
constexpr std::size_t kScatterBlock = 64;

enum class Second { kNone, kWeight, kMoment };

template <Second kSecond, std::size_t kTerms>
void add_to_buckets(const float* values, std::size_t n, ValueBuckets buckets, float best,
                    const BucketWeight& first, const BucketWeight& second, std::uint8_t* numbers,
                    BucketSums& sums) {
    __m256 first_terms[kBucketTerms], second_terms[kBucketTerms];
    for (std::size_t i = 0; i < kBucketTerms; ++i) {
        first_terms[i] = _mm256_set1_ps(first.terms[i]);
        second_terms[i] = _mm256_set1_ps(second.terms[i]);
    }
    const __m256 top = _mm256_set1_ps(buckets.top), per_value = _mm256_set1_ps(buckets.per_value);
    const __m256 best8 = _mm256_set1_ps(best), stand_in = _mm256_set1_ps(-128.0f);
    const __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
    const __m256 least = _mm256_set1_ps(-1.0f), most = _mm256_set1_ps(kNumValueBuckets - 2);
    alignas(32) std::int32_t chosen[kScatterBlock];
    alignas(32) double weights[2 * kScatterBlock];
    for (std::size_t start = 0; start < n; start += kScatterBlock) {
        const std::size_t count = n - start < kScatterBlock ? n - start : kScatterBlock;
        for (std::size_t i = 0; i < count; i += 8) {
            const __m256 v = count - i < 8 ? load_tail(values + start + i, count - i)
                                           : _mm256_loadu_ps(values + start + i);
            __m256 place = _mm256_mul_ps(_mm256_sub_ps(top, v), per_value);
            place = _mm256_add_ps(_mm256_min_ps(_mm256_max_ps(place, least), most), one);
            const __m256i bucket = _mm256_cvttps_epi32(place);
            place = _mm256_sub_ps(_mm256_sub_ps(place, _mm256_cvtepi32_ps(bucket)), half);
            _mm256_store_si256(reinterpret_cast<__m256i*>(chosen + i), bucket);
            const __m256 a = weight_at<kTerms>(place, first_terms);
            if (kSecond == Second::kNone) {
                _mm256_store_pd(weights + i, low_half(a));
                _mm256_store_pd(weights + i + 4, high_half(a));
                continue;
            }
            const __m256 b =
                kSecond == Second::kMoment
                    ? _mm256_mul_ps(a, _mm256_max_ps(_mm256_sub_ps(v, best8), stand_in))
                    : weight_at<kTerms>(place, second_terms);
            const __m256 even = _mm256_unpacklo_ps(a, b);  // 0, 1, 4, 5
            const __m256 odd = _mm256_unpackhi_ps(a, b);   // 2, 3, 6, 7
            _mm256_store_pd(weights + 2 * i, low_half(even));
            _mm256_store_pd(weights + 2 * i + 4, low_half(odd));
            _mm256_store_pd(weights + 2 * i + 8, high_half(even));
            _mm256_store_pd(weights + 2 * i + 12, high_half(odd));
        }
        const auto add = [&](std::size_t i) {
            double* sum = sums.of[i % kBucketTables][chosen[i]];
            if (kSecond == Second::kNone) {
                *sum += weights[i];
                return;
            }
            _mm_store_pd(sum, _mm_add_pd(_mm_load_pd(sum), _mm_load_pd(weights + 2 * i)));
        };
        if (count < kScatterBlock) {
            for (std::size_t i = 0; i < count; ++i) {
                numbers[start + i] = static_cast<std::uint8_t>(chosen[i]);
                add(i);
            }
            break;
        }
        for (std::size_t i = 0; i < kScatterBlock; i += kBucketTables) {
            for (std::size_t t = 0; t < kBucketTables; ++t) add(i + t);
        }
        for (std::size_t i = 0; i < kScatterBlock; i += 32) {
            const auto* from = reinterpret_cast<const __m256i*>(chosen + i);
            const __m256i ab =
                _mm256_packus_epi32(_mm256_load_si256(from), _mm256_load_si256(from + 1));
            const __m256i cd =
                _mm256_packus_epi32(_mm256_load_si256(from + 2), _mm256_load_si256(from + 3));
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers + start + i),
                                _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order));
        }
    }
}

template <std::size_t kTerms>
void bucket_sums_of(const float* values, std::size_t n, ValueBuckets buckets, float best,
                    const BucketWeight& first, const BucketWeight* second, bool has_moment,
                    std::uint8_t* numbers, BucketSums& sums) {
    const auto add = has_moment ? add_to_buckets<Second::kMoment, kTerms>
                     : second   ? add_to_buckets<Second::kWeight, kTerms>
                                : add_to_buckets<Second::kNone, kTerms>;
    add(values, n, buckets, best, first, second ? *second : first, numbers, sums);
}

void bucket_sums(const float* values, std::size_t n, ValueBuckets buckets, float best,
                 const BucketWeight& first, const BucketWeight* second, bool has_moment,
                 std::uint8_t* numbers, BucketSums& sums) {
    const auto is_short = [](const BucketWeight& weight) {
        return weight.terms[kBucketTerms - 1] == 0.0f && weight.terms[kBucketTerms - 2] == 0.0f;
    };
    const auto add = is_short(first) && (!second || is_short(*second))
                         ? bucket_sums_of<kBucketTerms - 2>
                         : bucket_sums_of<kBucketTerms>;
    add(values, n, buckets, best, first, second, has_moment, numbers, sums);
}

std::size_t find_numbers(const std::uint8_t* numbers, std::size_t n, std::uint8_t first,
                         std::uint8_t last, std::uint32_t* out) {
    const __m256i first32 = _mm256_set1_epi8(static_cast<char>(first));
    const __m256i most = _mm256_set1_epi8(static_cast<char>(last - first));
    std::size_t count = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i from = _mm256_sub_epi8(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers + i)), first32);
        auto set = static_cast<std::uint32_t>(
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(from, most), from)));
        for (; set != 0; set &= set - 1) {
            out[count++] =
                static_cast<std::uint32_t>(i + static_cast<std::size_t>(std::countr_zero(set)));
        }
    }
    for (; i < n; ++i) {
        if (numbers[i] >= first && numbers[i] <= last) out[count++] = static_cast<std::uint32_t>(i);
    }
    return count;
}

}  // namespace

const SamplingKernels kAvx2Sampling = {block_max,   masked_copy, exp_sum,     exp_moments,
                                       exp_weights, collect,     bucket_sums, find_numbers};

}  // namespace tektra::avx2
