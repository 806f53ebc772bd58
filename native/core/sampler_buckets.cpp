#include "sampler_buckets.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace tektra {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::uint32_t kLastId = std::numeric_limits<std::uint32_t>::max();
constexpr int kLastBucket = kNumValueBuckets - 1;

// All that is this far below the best together weighs less than rounding, by any vocabulary.
constexpr double kFarBelow = 36.0;
// In a bucket no wider than this the polynomial of BucketWeight is off by less than 1e-7.
constexpr double kWidestBucket = 0.3;
// And here it is without its last two terms.
constexpr double kNarrowBucket = 0.06;
// The weights of what is kept are made anew when their best is this far below 1, as an exponent.
constexpr double kMostLost = 30.0;
// Stands for a weight that is not worth adding up, and is not 0.
constexpr double kHardlyAny = 1e-300;
// How many blocks the range of values is judged by.
constexpr std::size_t kSampledBlocks = 64;
// From one candidate in so many on, buckets cost less than a list.
constexpr std::size_t kOneIn = 3;
// Shorter rows are listed.
constexpr std::size_t kFewestBucketed = 2048;

// Floats as whole numbers in the same order.
std::int64_t rank_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits >= 0 ? bits : std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits;
}

float at_rank(std::int64_t rank) {
    const auto bits = static_cast<std::int32_t>(
        rank >= 0 ? rank : std::int64_t{std::numeric_limits<std::int32_t>::min()} - rank);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The value at which `kept` turns true between `outside`, where it is not, and `inside`, where it
// is: the last on the inside. `inside` where it is true at `outside` too would be `outside`.
template <typename Kept>
float turning_point(float outside, float inside, Kept kept) {
    if (kept(outside)) return outside;
    std::int64_t from = rank_of(outside), to = rank_of(inside);
    while (std::abs(to - from) > 1) {
        const std::int64_t middle = from + (to - from) / 2;
        (kept(at_rank(middle)) ? to : from) = middle;
    }
    return at_rank(to);
}

BucketWeight weight_in_bucket(double width) {
    BucketWeight weight{};
    const std::size_t num_terms = width <= kNarrowBucket ? kBucketTerms - 2 : kBucketTerms;
    double term = 1.0;
    for (std::size_t i = 0; i < num_terms; ++i) {
        weight.terms[i] = static_cast<float>(term);
        term *= -width / static_cast<double>(i + 1);
    }
    return weight;
}

template <typename Visit>
void visit_sample(const BlockedRow& row, Visit visit) {
    const std::size_t count = std::min(kSampledBlocks, row.num_blocks());
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t start = i * row.num_blocks() / count * kSamplingBlock;
        visit(row.values + start, std::min(kSamplingBlock, row.size - start));
    }
}

}  // namespace

double BucketedCandidates::estimated_total(const SamplingKernels& kernels, const BlockedRow& row,
                                           float scale) {
    std::size_t size = 0;
    double weight = 0.0;
    visit_sample(row, [&](const float* values, std::size_t count) {
        size += count;
        weight += kernels.exp_sum(values, count, row.best, scale, kLowestExponent);
    });
    return std::max(1.0, weight * static_cast<double>(row.size) / static_cast<double>(size));
}

bool BucketedCandidates::has_many(const BlockedRow& row, double distance) {
    if (row.size < kFewestBucketed) return false;
    const float low = safe_floor(row.best, distance);
    std::size_t size = 0, near = 0;
    visit_sample(row, [&](const float* values, std::size_t count) {
        size += count;
        for (std::size_t i = 0; i < count; ++i) near += values[i] >= low;
    });
    return near * kOneIn > size;
}

void BucketedCandidates::start(const SamplingKernels* kernels, const BlockedRow& row, float scale,
                               bool is_filtered, bool is_typical, Candidates& members) {
    kernels_ = kernels;
    row_ = &row;
    members_ = &members;
    members.use(kernels);
    members.reserve(row.size);
    scale_ = scale;
    origin_ = best_ = high_ = row.best;
    low_ = -kMaxFloat;
    low_last_id_ = high_last_id_ = kLastId;
    high_first_id_ = 0;
    choose_range(kFarBelow / (is_filtered ? 1.0 : double{scale}));
    const float filter_scale = is_filtered ? 1.0f : scale;
    const bool is_steep = scale / double{buckets_.per_value} > kWidestBucket;
    sum(filter_scale, is_steep ? filter_scale : scale, is_typical);
}

// Buckets for what is kept, down to `most` below its best.
void BucketedCandidates::choose_range(double most) {
    // Few are outside the range of a sample: those share the first and the last bucket.
    float top = -kInfinity, bottom = kInfinity;
    visit_sample(*row_, [&](const float* values, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            const float value = values[i];
            const bool inside = value >= low_ && value <= best_;
            top = inside && value > top ? value : top;
            bottom = inside && value < bottom ? value : bottom;
        }
    });
    if (!(top >= bottom)) top = bottom = best_;
    // What is not kept shares no bucket with what is: there may be much of it.
    if (best_ < row_->best) top = best_;
    if (low_ > -kMaxFloat) bottom = low_;
    const float floor = safe_floor(best_, most);
    is_cut_ = bottom < floor;
    bottom = std::max(bottom, floor);
    top = std::max(top, bottom);
    const float per_value = (static_cast<float>(kNumValueBuckets) - 2.5f) / (top - bottom);
    buckets_ = {top, per_value >= 1e-30f && per_value <= 1e30f ? per_value : 1e30f};
}

void BucketedCandidates::sum(float first_scale, float second_scale, bool with_moment) {
    column_scales_[0] = first_scale;
    column_scales_[1] = second_scale;
    has_moment_ = with_moment;
    const double width = 1.0 / double{buckets_.per_value};
    const BucketWeight first = weight_in_bucket(first_scale * width);
    const BucketWeight second = weight_in_bucket(second_scale * width);
    std::memset(&tables_, 0, sizeof tables_);
    const bool is_single = !with_moment && first_scale == second_scale;
    kernels_->bucket_sums(row_->values, row_->size, buckets_, origin_, first,
                          is_single ? nullptr : &second, with_moment, numbers_.reserve(row_->size),
                          tables_);
    for (int column = 0; column < 2; ++column) {
        if (column == 1 && is_single) {
            sums_[1] = sums_[0];
            continue;
        }
        const double scale = with_moment ? first_scale : column_scales_[column];
        for (int bucket = 0; bucket < kNumValueBuckets; ++bucket) {
            double weight = 0.0;
            for (const auto& table : tables_.of) weight += table[bucket][column];
            if (weight == 0.0) {
                sums_[column][bucket] = 0.0;
                continue;
            }
            const double middle = double{buckets_.top} - (bucket - 0.5) * width;
            sums_[column][bucket] = weight * std::exp((middle - double{origin_}) * scale);
        }
    }
    const bool is_high_end = high_ == row_->best && high_first_id_ == 0 && high_last_id_ == kLastId;
    cut_to_edges(low_ > -kMaxFloat, !is_high_end);
    // Nothing bounds where values lie in these.
    refresh(0);
    if (!is_cut_) {
        refresh(kLastBucket);
    } else if (sums_[0][kLastBucket] != 0.0) {
        sums_[0][kLastBucket] = kHardlyAny;
        sums_[1][kLastBucket] = with_moment ? 0.0 : kHardlyAny;
    }
}

int BucketedCandidates::bucket_of(float value) const {
    float place = (buckets_.top - value) * buckets_.per_value;
    place = place > -1.0f ? place : -1.0f;
    constexpr float last = kNumValueBuckets - 2;
    return static_cast<int>((place < last ? place : last) + 1.0f);
}

double BucketedCandidates::total(Column column) const {
    return std::accumulate(sums_[column].begin(), sums_[column].end(), 0.0);
}

double BucketedCandidates::drawn_weight(std::int32_t token) const {
    return kernels_->exp_sum(row_->values + token, 1, origin_, scale_, kLowestExponent);
}

bool BucketedCandidates::contains(float value, std::uint32_t id) const {
    if (!(value >= low_) || value > high_) return false;
    if (value == low_ && id > low_last_id_) return false;
    return value != high_ || (id >= high_first_id_ && id <= high_last_id_);
}

// Makes what is kept in the buckets `first` to `last` the members.
void BucketedCandidates::list(int first, int last, bool append) {
    if (!append) members_->size_ = 0;
    members_->best_ = origin_;
    std::uint32_t* ids = members_->ids_.data();
    float* values = members_->values_.data();
    std::size_t size = members_->size_;
    const std::size_t end =
        size + kernels_->find_numbers(numbers_.data(), row_->size, static_cast<std::uint8_t>(first),
                                      static_cast<std::uint8_t>(last), ids + size);
    for (std::size_t i = size; i < end; ++i) {
        const std::uint32_t id = ids[i];
        const float value = row_->values[id];
        ids[size] = id;
        values[size] = value;
        size += contains(value, id);
    }
    members_->size_ = size;
}

void BucketedCandidates::weigh_members(float scale) {
    kernels_->exp_weights(members_->values_.data(), members_->size_, origin_, scale,
                          weights_.reserve(members_->size_));
}

// Sums up what is kept in a bucket.
void BucketedCandidates::refresh(int bucket) {
    if (sums_[0][bucket] == 0.0 && sums_[1][bucket] == 0.0) return;
    list(bucket, bucket);
    for (int column = 0; column < 2; ++column) {
        if (column == 0 || !has_moment_) weigh_members(column_scales_[column]);
        const float* weights = weights_.data();
        double sum = 0.0;
        for (std::size_t i = 0; i < members_->size_; ++i) {
            double weight = weights[i];
            if (column == 1 && has_moment_) {
                weight *= std::max(members_->values_.data()[i] - origin_, -128.0f);
            }
            sum += weight;
        }
        sums_[column][bucket] = sum;
    }
}

// Takes what is beyond the edges out of the sums; only the buckets of edges that moved are looked
// at.
void BucketedCandidates::cut_to_edges(bool low_moved, bool high_moved) {
    const int first = bucket_of(high_), last = bucket_of(low_);
    for (auto& column : sums_) {
        std::fill(column.begin(), column.begin() + first, 0.0);
        std::fill(column.begin() + last + 1, column.end(), 0.0);
    }
    if (high_moved) refresh(first);
    if (low_moved && !(high_moved && last == first)) refresh(last);
}

// The bucket in which the sum of weights reaches the target, and the sum before it.
int BucketedCandidates::find(Column column, double target, bool beyond, double& before) const {
    int chosen = 0;
    double sum = 0.0;
    before = 0.0;
    for (int bucket = 0; bucket < kNumValueBuckets; ++bucket) {
        const double added = sums_[column][bucket];
        if (added <= kHardlyAny && !(added > 0.0 && sum == 0.0)) continue;
        chosen = bucket;
        before = sum;
        sum += added;
        if (beyond ? sum > target : sum >= target) break;
    }
    return chosen;
}

// Makes a member the last that is kept.
void BucketedCandidates::end_after(std::size_t member) {
    low_ = members_->values_.data()[member];
    low_last_id_ = members_->ids_.data()[member];
    cut_to_edges(true, false);
}

void BucketedCandidates::keep_best(std::size_t k) {
    std::array<std::array<std::uint32_t, kNumValueBuckets>, 4> counts{};
    const std::uint8_t* numbers = numbers_.data();
    for (std::size_t i = 0; i < row_->size; ++i) ++counts[i % 4][numbers[i]];
    std::size_t before = 0;
    int bucket = 0;
    for (; bucket < kLastBucket; ++bucket) {
        std::size_t count = 0;
        for (const auto& table : counts) count += table[bucket];
        if (before + count >= k) break;
        before += count;
    }
    list(bucket, bucket);
    if (members_->size_ == 0) return;
    members_->set_distance_keys();
    end_after(
        members_->boundary(static_cast<double>(k), false, nullptr, static_cast<double>(before)));
}

void BucketedCandidates::keep_top_p(double mass) {
    const double target = mass * total(kFilter);
    double before;
    const int bucket = find(kFilter, target, false, before);
    list(bucket, bucket);
    if (members_->size_ == 0) return;
    weigh_members(column_scales_[kFilter]);
    members_->set_distance_keys();
    end_after(members_->boundary(target, false, weights_.data(), before));
}

template <typename Kept>
void BucketedCandidates::keep_values_from(Kept kept) {
    const float low = turning_point(-kMaxFloat, best_, kept);
    if (low <= low_) return;
    low_ = low;
    low_last_id_ = kLastId;
    cut_to_edges(true, false);
}

void BucketedCandidates::keep_min_p(double ratio) {
    const auto lowest = static_cast<float>(std::log(ratio));
    keep_values_from([&](float value) { return value - best_ >= lowest; });
}

void BucketedCandidates::keep_scaled_from(double lowest) {
    keep_values_from(
        [&](float value) { return static_cast<double>((value - best_) * scale_) >= lowest; });
}

void BucketedCandidates::exclude_top_choices(double threshold) {
    const double least = threshold * total(kFilter);
    const auto is_probable = [&](float value) {
        return kernels_->exp_sum(&value, 1, origin_, 1.0f, kLowestExponent) >= least;
    };
    if (!is_probable(best_)) return;
    const float low = turning_point(-kMaxFloat, best_, is_probable);
    for (int bucket = bucket_of(std::max(low, low_)); bucket >= 0; --bucket) {
        if (sums_[kFilter][bucket] == 0.0 && bucket != kLastBucket) continue;
        list(bucket, bucket);
        const float* values = members_->values_.data();
        std::size_t last = members_->size_;
        for (std::size_t i = 0; i < members_->size_; ++i) {
            if (values[i] < low) continue;
            if (last == members_->size_ || values[i] <= values[last]) last = i;
        }
        if (last == members_->size_) continue;
        if (values[last] != high_) high_last_id_ = kLastId;
        best_ = high_ = values[last];
        high_first_id_ = members_->ids_.data()[last];
        cut_to_edges(false, true);
        return;
    }
}

bool BucketedCandidates::keep_typical(double mass) {
    const double weight = total(kFilter);
    const double expected = total(kDrawn) / weight;  // the moments
    const double target = mass * weight;
    const auto key_of = [&](float value) {
        const double x = static_cast<double>(value - origin_);
        return static_cast<float>(std::min(std::abs(x - expected), double{kMaxFloat}));
    };
    // How near to the expected surprise and how far from it the values of each bucket can be, with
    // room for rounding.
    const double width = 1.0 / double{buckets_.per_value};
    const double room = 1e-3 * width + 1e-6 * (1.0 + std::abs(expected));
    std::array<double, kNumValueBuckets> nearest, farthest;
    for (int bucket = 0; bucket < kNumValueBuckets; ++bucket) {
        const double upper = (double{buckets_.top} - double{origin_}) - (bucket - 1) * width;
        const double above = bucket == 0 ? 0.0 : upper;
        const double below = bucket == kLastBucket ? -INFINITY : upper - width;
        const bool inside = above >= expected && below <= expected;
        const double a = std::abs(above - expected), b = std::abs(below - expected);
        nearest[bucket] = inside ? 0.0 : std::max(std::min(a, b) - room, 0.0);
        farthest[bucket] = std::max(a, b) + room;
    }
    const auto reached_at = [&](const std::array<double, kNumValueBuckets>& keys) {
        std::array<int, kNumValueBuckets> order;
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int a, int b) { return keys[a] < keys[b]; });
        double sum = 0.0;
        for (const int bucket : order) {
            if (sums_[kFilter][bucket] == 0.0) continue;
            sum += sums_[kFilter][bucket];
            if (sum >= target) return keys[bucket];
        }
        return double{kInfinity};
    };
    // The key of the last one kept lies between these.
    const double least = std::min(reached_at(nearest), double{kMaxFloat});
    const double most = reached_at(farthest);
    double before = 0.0;
    members_->size_ = 0;
    int first = -1;
    for (int bucket = 0; bucket <= kNumValueBuckets; ++bucket) {
        const bool sure = bucket < kNumValueBuckets && farthest[bucket] < least;
        const bool open = bucket < kNumValueBuckets && !sure && nearest[bucket] <= most &&
                          sums_[kFilter][bucket] != 0.0;
        if (sure) before += sums_[kFilter][bucket];
        if (open && first < 0) first = bucket;
        if (!open && first >= 0) {
            list(first, bucket - 1, true);
            first = -1;
        }
    }
    if (members_->size_ > 0) {
        const float* values = members_->values_.data();
        float* keys = members_->keys_.reserve(members_->size_);
        for (std::size_t i = 0; i < members_->size_; ++i) keys[i] = key_of(values[i]);
        weigh_members(1.0f);
        const std::uint32_t last = members_->boundary(target, false, weights_.data(), before);
        const float key = keys[last], value = values[last];
        const std::uint32_t id = members_->ids_.data()[last];
        const float middle =
            std::clamp(static_cast<float>(double{origin_} + expected), low_, best_);
        if (value <= middle) {
            high_ = turning_point(best_, std::min(std::max(middle, value), best_),
                                  [&](float v) { return v <= middle || key_of(v) <= key; });
            low_ = value;
            low_last_id_ = id;
        } else {
            // Values that differ by less than the rounding of the key: what is kept has a hole.
            for (std::size_t i = 0; i < members_->size_; ++i) {
                if (keys[i] == key && values[i] > value) return false;
            }
            const float low = turning_point(
                low_, middle, [&](float v) { return v >= middle || key_of(v) < key; });
            if (low > low_) low_last_id_ = kLastId;
            low_ = std::max(low, low_);
            high_ = value;
            high_last_id_ = id;
        }
    }
    cut_to_edges(true, true);
    find_best();
    // What was the sum of moments is now that of weights.
    has_moment_ = false;
    sums_[1] = sums_[0];
    column_scales_[1] = column_scales_[0];
    return true;
}

void BucketedCandidates::find_best() {
    for (int bucket = 0; bucket < kNumValueBuckets; ++bucket) {
        if (sums_[kFilter][bucket] == 0.0) continue;
        list(bucket, bucket);
        if (members_->size_ == 0) continue;
        best_ =
            *std::max_element(members_->values_.data(), members_->values_.data() + members_->size_);
        return;
    }
}

std::int32_t BucketedCandidates::draw(double number) {
    const double lost = (double{origin_} - double{best_}) * scale_;
    const bool reaches_far =
        is_cut_ && bucket_of(low_) == kLastBucket && scale_ < column_scales_[0];
    if (column_scales_[kDrawn] != scale_ || lost > kMostLost || reaches_far) {
        origin_ = best_;
        choose_range(kFarBelow / scale_);
        sum(scale_, scale_, false);
    }
    const double target = number * total(kDrawn);
    double before;
    const int bucket = find(kDrawn, target, true, before);
    list(bucket, bucket);
    weigh_members(scale_);
    members_->set_distance_keys();
    return members_->id(members_->boundary(target, true, weights_.data(), before));
}

}  // namespace tektra
