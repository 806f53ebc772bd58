// Many candidates at once: all of a row that lies between two edges of the order (value descending,
// id ascending), known by the weight in each bucket of values. Each filter moves an edge, and looks
// at single tokens in the bucket of that edge only. Internal to the sampler.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "sampler_candidates.h"
#include "tektra/sampling_kernels.h"

namespace tektra {

// The filters are those of Candidates, with the same outcome; for rows too long to list.
class BucketedCandidates {
  public:
    // All of `row` that is not -inf; `scale` is that of the draw, 1 / temperature. The weights that
    // typical, top-p and XTC look at have scale 1 and are made where `is_filtered` says so; only
    // typical needs `has_moment`. `members` is working memory until the last call.
    void start(const SamplingKernels* kernels, const BlockedRow& row, float scale, bool is_filtered,
               bool has_moment, Candidates& members);

    void keep_best(std::size_t k);  // before any other filter
    void keep_typical(double mass);
    void keep_top_p(double mass);
    void keep_min_p(double ratio);
    void exclude_top_choices(double threshold);

    // Keeps what weighs exp(lowest) or more by the scale of the draw.
    void keep_scaled_from(double lowest);

    // The sum of weights by the scale of the draw.
    double drawn_total() { return total(1); }

    // The token at which the sum of weights in order passes number * their total.
    std::int32_t draw(double number);

  private:
    static constexpr int kFilter = 0, kDraw = 1;
    using Sums = std::array<std::array<double, kNumValueBuckets>, 2>;

    void choose_range(float scale);
    void sum_buckets(bool is_filtered, bool has_moment);
    int bucket_of(float value) const;
    double total(int which) const;
    bool contains(float value, std::uint32_t id) const;
    void list(int first, int last);
    const float* member_weights(int which);
    void keep_bucket_members(int bucket);
    void end_at(std::uint32_t member, int bucket);
    int find(int which, double target, bool beyond, double& before) const;
    template <typename Kept>
    void keep_values(float about, Kept kept);

    const SamplingKernels* kernels_ = nullptr;
    const BlockedRow* row_ = nullptr;
    Candidates* members_ = nullptr;
    ValueBuckets buckets_{};
    Sums sums_;
    double moment_ = 0.0;
    float best_ = 0.0f;  // of what is kept
    // The edges. Of the values equal to one, these ids are kept.
    float low_ = 0.0f, high_ = 0.0f;
    std::uint32_t low_last_id_ = 0, high_first_id_ = 0, high_last_id_ = 0;
    BucketSums tables_;
};

}  // namespace tektra
