// The sampling kernels in plain C++: the readable truth of what the others compute.

#include "tektra/sampling_kernels.h"

#include <cstring>
#include <limits>

namespace tektra::scalar {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// exp(x) for x <= 0, which -inf may be. x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) is
// 1 + r + r^2 q(r), q being of degree 4, fitted to the least largest relative error.
float exp_nonpositive(float x) {
    if (!(x >= kLowestExponent)) return 0.0f;
    // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f;  // ln 2 in two parts: n times the first is exact
    r = r - n * -2.12194440e-4f;
    float q = 0x1.6a2434p-10f;
    q = q * r + 0x1.1239e2p-7f;
    q = q * r + 0x1.5558f2p-5f;
    q = q * r + 0x1.555492p-3f;
    q = q * r + 0x1.fffffcp-2f;
    const float y = (q * (r * r) + r) + 1.0f;
    std::uint32_t shifted_bits, y_bits;
    std::memcpy(&shifted_bits, &shifted, sizeof shifted);
    std::memcpy(&y_bits, &y, sizeof y);
    y_bits += shifted_bits << 23;
    float result;
    std::memcpy(&result, &y_bits, sizeof result);
    return result;
}

double add_lanes(const double lanes[8]) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

bool block_max(const float* values, std::size_t n, float* maxima) {
    bool has_nan = false;
    for (std::size_t start = 0; start < n; start += kSamplingBlock) {
        const std::size_t end = n - start < kSamplingBlock ? n : start + kSamplingBlock;
        float largest = kNegativeInfinity;
        for (std::size_t i = start; i < end; ++i) {
            has_nan |= values[i] != values[i];
            largest = values[i] > largest ? values[i] : largest;
        }
        maxima[start / kSamplingBlock] = largest;
    }
    return has_nan;
}

bool masked_copy(const float* values, const std::uint32_t* mask, std::size_t n, float* out) {
    bool has_nan = false;
    for (std::size_t i = 0; i < n; ++i) {
        has_nan |= values[i] != values[i];
        out[i] = (mask[i / 32] >> (i % 32)) & 1u ? values[i] : kNegativeInfinity;
    }
    return has_nan;
}

double exp_sum(const float* values, std::size_t n, float best, float scale, float lowest) {
    double lanes[8] = {};
    for (std::size_t i = 0; i < n; ++i) {
        const float x = (values[i] - best) * scale;
        if (x >= lowest) lanes[i % 8] += exp_nonpositive(x);
    }
    return add_lanes(lanes);
}

ExpMoments exp_moments(const float* values, std::size_t n, float best, float scale) {
    double total[8] = {}, first[8] = {};
    for (std::size_t i = 0; i < n; ++i) {
        const float x = (values[i] - best) * scale;
        const double weight = exp_nonpositive(x);
        total[i % 8] += weight;
        // A finite stand-in for -inf, whose weight is 0 and whose product with it is not.
        first[i % 8] += weight * (x > -128.0f ? x : -128.0f);
    }
    return {add_lanes(total), add_lanes(first)};
}

void exp_weights(const float* values, std::size_t n, float best, float scale, float* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = exp_nonpositive((values[i] - best) * scale);
}

std::size_t collect(const float* values, std::size_t n, float low, std::uint32_t first_id,
                    float* out_values, std::uint32_t* out_ids) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        out_values[count] = values[i];
        out_ids[count] = first_id + static_cast<std::uint32_t>(i);
        count += values[i] >= low;
    }
    return count;
}

float weight_at(float place, const BucketWeight& weight) {
    float sum = weight.terms[kBucketTerms - 1];
    for (std::size_t i = kBucketTerms - 1; i-- > 0;) sum = sum * place + weight.terms[i];
    return sum;
}

void bucket_sums(const float* values, std::size_t n, ValueBuckets buckets, float best,
                 const BucketWeight& first, const BucketWeight* second, bool has_moment,
                 std::uint8_t* numbers, BucketSums& sums) {
    for (std::size_t i = 0; i < n; ++i) {
        float place = (buckets.top - values[i]) * buckets.per_value;
        place = place > -1.0f ? place : -1.0f;
        constexpr float last = kNumValueBuckets - 2;
        place = (place < last ? place : last) + 1.0f;
        const int bucket = static_cast<int>(place);
        place = (place - static_cast<float>(bucket)) - 0.5f;
        numbers[i] = static_cast<std::uint8_t>(bucket);
        const float weight = weight_at(place, first);
        const float x = values[i] - best;
        double* sum = sums.of[i % kBucketTables][bucket];
        sum[0] += weight;
        if (has_moment) {
            sum[1] += weight * (x > -128.0f ? x : -128.0f);
        } else if (second) {
            sum[1] += weight_at(place, *second);
        }
    }
}

std::size_t find_numbers(const std::uint8_t* numbers, std::size_t n, std::uint8_t first,
                         std::uint8_t last, std::uint32_t* out) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (numbers[i] >= first && numbers[i] <= last) out[count++] = static_cast<std::uint32_t>(i);
    }
    return count;
}

}  // namespace

const SamplingKernels kScalarSampling = {block_max,   masked_copy, exp_sum,     exp_moments,
                                         exp_weights, collect,     bucket_sums, find_numbers};

}  // namespace tektra::scalar
