// The tokens that are still in the running, and the filters that take tokens out. Internal to the
// sampler. Knows logits and probabilities, not requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tektra/sampling_kernels.h"

namespace tektra {

// Memory that is not initialized and only grows, so that pages never touched are never resident.
template <typename T>
class Buffer {
  public:
    T* reserve(std::size_t count) {
        if (count > capacity_) {
            data_.reset(new T[count]);
            capacity_ = count;
        }
        return data_.get();
    }

    T* data() { return data_.get(); }

  private:
    std::unique_ptr<T[]> data_;
    std::size_t capacity_ = 0;
};

// A row of logits and the largest value of each block of them.
struct BlockedRow {
    const float* values;
    std::size_t size;
    const float* block_maxima;
    float best;           // of all
    double total_weight;  // sum of exp(value - best); 0 until it is needed

    std::size_t num_blocks() const { return (size + kSamplingBlock - 1) / kSamplingBlock; }
};

// The greatest float32 that is surely at or below best - distance, though never -inf: values
// below it are out of the running, whatever rounding does.
float safe_floor(float best, double distance);

// Candidates in ascending order of id. Their filters follow the order (value descending, id
// ascending) and leave at least one. Weights are exp(value - best), not normalized.
class Candidates {
  public:
    // The kernels that the next calls use.
    void use(const SamplingKernels* kernels) { kernels_ = kernels; }

    // What the next calls work on: all of `row` that is at least `low`.
    void collect(const BlockedRow& row, float low);

    // The k best of `row`; all of it that is not -inf where there are no more.
    void collect_best(const BlockedRow& row, std::size_t k);

    // `total` is the sum of weights that the probabilities refer to, at least that of the
    // candidates: more where some were left out beforehand that these filters drop anyway.
    void keep_typical(double mass, double total, double expected);
    void keep_top_p(double mass, double total);
    void keep_typical(double mass);
    void keep_top_p(double mass);
    void keep_min_p(double ratio);
    void keep_scaled_from(double lowest, float scale);
    void exclude_top_choices(double threshold);

    // The index at which the sum of weights in order passes number * total, of weights
    // exp((value - best) * scale); without a total, their sum is taken.
    std::size_t draw(double number, float scale, double total);
    std::size_t draw(double number, float scale);

    // Sum of exp((value - best) * scale).
    double weight_sum(float scale);

    // exp((value - best) * scale) of one.
    double weight(std::size_t index, float scale);

    // Indices in order of (value descending, id ascending); valid until the next call.
    std::span<const std::uint32_t> ordered();

    std::size_t size() const { return size_; }
    std::int32_t id(std::size_t index) { return static_cast<std::int32_t>(ids_.data()[index]); }

  private:
    friend class BucketedCandidates;  // works on the candidates of one bucket at a time

    void reserve(std::size_t count);
    void find_best();
    void set_distance_keys();
    std::uint32_t boundary(double target, bool beyond, const float* weights, double before = 0.0);
    bool is_before(std::uint32_t a, std::uint32_t b);
    template <typename MemberOf, typename WeightOf, typename Reached>
    std::size_t narrow(std::size_t count, double& before, MemberOf member_of, WeightOf weight_of,
                       Reached reached);
    void keep_until(std::uint32_t last);
    void keep_best_until(std::uint32_t last);
    template <typename Kept>
    void keep_if(Kept kept);

    const SamplingKernels* kernels_ = nullptr;
    std::size_t size_ = 0;
    float best_ = 0.0f;
    Buffer<float> values_;
    Buffer<std::uint32_t> ids_;
    Buffer<float> keys_;
    Buffer<float> weights_;
    Buffer<std::uint32_t> members_;
    Buffer<std::int32_t> buckets_;
    Buffer<float> spare_values_;
    Buffer<float> maxima_;
};

}  // namespace tektra
