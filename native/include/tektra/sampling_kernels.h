// The loops over a whole vocabulary that sampling needs, one table for each instruction set.
//
// Every implementation returns the same bits: sums run over eight lanes in float64, element i in
// lane i % 8, the lanes added as ((0+4)+(2+6))+((1+5)+(3+7)); exp is one fixed sequence of float32
// operations. Logits may be -inf. Knows nothing of requests, parameters or random numbers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tektra {

// Values per block of SamplingKernels::block_max.
inline constexpr std::size_t kSamplingBlock = 128;

// Room that the outputs of SamplingKernels::collect need beyond what it finds.
inline constexpr std::size_t kCollectSlack = 8;

struct ExpMoments {
    double total;  // sum of w
    double first;  // sum of w * x
};

inline constexpr int kNumValueBuckets = 256;

// Buckets of values, best first. Bucket 0 also has all that is above `top`, the last all that is
// below its own values. The place of a value is min(max((top - value) * per_value, -1),
// kNumValueBuckets - 2) + 1 in float32; rounded down that is its bucket, and what is left, less
// 0.5, where in the bucket it lies. `top` is finite, `per_value` positive and finite.
struct ValueBuckets {
    float top;
    float per_value;
};

// A weight by where in the bucket a value lies: a polynomial, lowest coefficient first.
inline constexpr std::size_t kBucketTerms = 6;
struct BucketWeight {
    float terms[kBucketTerms];
};

// Two sums for each bucket: over the values i % 4 == t in table t, in order.
// More than one table, because neighbours often share a bucket and would wait for each other.
inline constexpr std::size_t kBucketTables = 4;
struct BucketSums {
    alignas(64) double of[kBucketTables][kNumValueBuckets][2];
};

// Where exp starts to return 0: below it, 2^n would soon leave the normal numbers.
inline constexpr float kLowestExponent = -86.0f;

// x is (value - best) * scale in float32, w is exp(x) with a relative error below 1e-7, and 0 for
// x below kLowestExponent.
// `best` is finite and not below any value, `scale` is positive and finite.
struct SamplingKernels {
    // The largest value of each block of kSamplingBlock values, the last block being shorter where
    // n asks for it. True where there is a NaN; the maxima then mean nothing.
    bool (*block_max)(const float* values, std::size_t n, float* maxima);

    // Copies values, with -inf where bit i % 32 of mask[i / 32] is not set. True where a value is
    // NaN, whether allowed or not.
    bool (*masked_copy)(const float* values, const std::uint32_t* mask, std::size_t n, float* out);

    // Sum of w where x is at least `lowest`; kLowestExponent for all of them.
    double (*exp_sum)(const float* values, std::size_t n, float best, float scale, float lowest);

    // Sums of w and w * x.
    ExpMoments (*exp_moments)(const float* values, std::size_t n, float best, float scale);

    // Each w.
    void (*exp_weights)(const float* values, std::size_t n, float best, float scale, float* out);

    // The values that are at least `low`, and first_id + their index, in order. Returns how many.
    // Writes up to kCollectSlack elements beyond them.
    std::size_t (*collect)(const float* values, std::size_t n, float low, std::uint32_t first_id,
                           float* out_values, std::uint32_t* out_ids);

    // Writes the bucket of each value and adds to the sums of the bucket: `first` to the first; to
    // the second, where `has_moment`, the product of that and value - best, which is taken as at
    // least -128, else `second` where it is not null.
    void (*bucket_sums)(const float* values, std::size_t n, ValueBuckets buckets, float best,
                        const BucketWeight& first, const BucketWeight* second, bool has_moment,
                        std::uint8_t* numbers, BucketSums& sums);

    // The places of the numbers from `first` to `last`, in order. Returns how many.
    std::size_t (*find_numbers)(const std::uint8_t* numbers, std::size_t n, std::uint8_t first,
                                std::uint8_t last, std::uint32_t* out);
};

namespace scalar {
extern const SamplingKernels kScalarSampling;
}

namespace avx2 {
extern const SamplingKernels kAvx2Sampling;
}

}  // namespace tektra
