// Many candidates at once: what lies between two edges in a row, in the order (value descending, id
// ascending), known by the weights in buckets of values. A filter moves an edge, and looks at
// single tokens in the bucket of the edge only. Internal to the sampler.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "sampler_candidates.h"
#include "tektra/sampling_kernels.h"

namespace tektra {

// The filters are those of Candidates, with the same outcome; for candidates too many to list.
class BucketedCandidates {
  public:
    // The sum of exp((value - best) * scale), and whether so many that buckets pay lie less than
    // `distance` below the best, both judged by some of the blocks.
    static double estimated_total(const SamplingKernels& kernels, const BlockedRow& row,
                                  float scale);
    static bool has_many(const BlockedRow& row, double distance);

    // All of `row` that is not -inf. `scale` is that of the draw, 1 / temperature. `is_filtered`:
    // typical, top-p or XTC follow, which look at weights of scale 1; `is_typical`: typical does.
    // `members` is working memory, until the last call.
    void start(const SamplingKernels* kernels, const BlockedRow& row, float scale, bool is_filtered,
               bool is_typical, Candidates& members);

    void keep_best(std::size_t k);
    // Once. False where what is kept does not lie between two edges; start again, without this.
    bool keep_typical(double mass);
    void keep_top_p(double mass);
    void keep_min_p(double ratio);
    void exclude_top_choices(double threshold);
    void keep_scaled_from(double lowest);  // exp(lowest) in weight, by the scale of the draw

    // The token at which the sum of weights in order passes number * their total.
    std::int32_t draw(double number);

    // By the scale of the draw, relative to the best of the row: the sum of weights, and one.
    double drawn_total() const { return total(kDrawn); }
    double drawn_weight(std::int32_t token) const;

  private:
    enum Column { kFilter, kDrawn };  // of the sums

    void choose_range(double most);
    void sum(float first_scale, float second_scale, bool with_moment);
    int bucket_of(float value) const;
    double total(Column column) const;
    bool contains(float value, std::uint32_t id) const;
    void list(int first, int last, bool append = false);
    void weigh_members(float scale);
    void refresh(int bucket);
    void cut_to_edges(bool low_moved, bool high_moved);
    int find(Column column, double target, bool beyond, double& before) const;
    void end_after(std::size_t member);
    void find_best();
    template <typename Kept>
    void keep_values_from(Kept kept);

    const SamplingKernels* kernels_ = nullptr;
    const BlockedRow* row_ = nullptr;
    Candidates* members_ = nullptr;
    float scale_ = 1.0f;           // of the draw
    float column_scales_[2] = {};  // of the sums
    bool has_moment_ = false;      // the second sums are of weight * (value - best) instead
    bool is_cut_ = false;          // the last bucket holds what hardly weighs anything
    float origin_ = 0.0f;          // where weights are 1
    float best_ = 0.0f;            // of what is kept
    ValueBuckets buckets_{};
    // The edges. Of the values equal to one, these ids are kept.
    float low_ = 0.0f, high_ = 0.0f;
    std::uint32_t low_last_id_ = 0, high_first_id_ = 0, high_last_id_ = 0;
    std::array<std::array<double, kNumValueBuckets>, 2> sums_{};
    Buffer<std::uint8_t> numbers_;
    Buffer<float> weights_;
    BucketSums tables_;
};

}  // namespace tektra
