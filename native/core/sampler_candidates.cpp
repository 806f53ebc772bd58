#include "sampler_candidates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace tektra {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Up to here candidates are sorted; above, buckets narrow down what has to be.
constexpr std::size_t kSortAtMost = 128;
constexpr std::size_t kNumBuckets = 1024;
// Each round narrows by the number of buckets, but for outliers; past this, sort all the same.
constexpr int kMaxRounds = 8;

}  // namespace

float safe_floor(float best, double distance) {
    // The distances that candidates are judged by are float32 differences, each off by up to one
    // part in 2^24; the margin is wider than that.
    const double low = static_cast<double>(best) - std::max(distance, 0.0) * (1.0 + 1e-6);
    if (!(low > -static_cast<double>(kMaxFloat))) return -kMaxFloat;
    return std::max(std::nextafter(static_cast<float>(low), -kInfinity), -kMaxFloat);
}

void Candidates::reserve(std::size_t count) {
    values_.reserve(count + kCollectSlack);
    ids_.reserve(count + kCollectSlack);
}

void Candidates::collect(const BlockedRow& row, float low) {
    reserve(row.size);
    float* values = values_.data();
    std::uint32_t* ids = ids_.data();
    size_ = 0;
    for (std::size_t block = 0; block < row.num_blocks(); ++block) {
        if (row.block_maxima[block] < low) continue;
        const std::size_t start = block * kSamplingBlock;
        size_ +=
            kernels_->collect(row.values + start, std::min(kSamplingBlock, row.size - start), low,
                              static_cast<std::uint32_t>(start), values + size_, ids + size_);
    }
    best_ = row.best;
}

void Candidates::collect_best(const BlockedRow& row, std::size_t k) {
    float low = -kMaxFloat;
    const std::size_t num_blocks = row.num_blocks();
    if (k <= num_blocks) {
        // k blocks hold a value at or above the k-th largest block maximum, so k values do.
        float* maxima = maxima_.reserve(num_blocks);
        std::copy_n(row.block_maxima, num_blocks, maxima);
        std::nth_element(maxima, maxima + (k - 1), maxima + num_blocks, std::greater<float>());
        low = std::max(low, maxima[k - 1]);
    }
    collect(row, low);
    if (size_ <= k) return;
    set_distance_keys();
    keep_best_until(boundary(static_cast<double>(k), false, nullptr));
}

void Candidates::keep_typical(double mass) {
    const ExpMoments moments = kernels_->exp_moments(values_.data(), size_, best_, 1.0f);
    keep_typical(mass, moments.total, moments.first / moments.total);
}

void Candidates::keep_typical(double mass, double total, double expected) {
    // Surprise less entropy is E[x] - x, with x = value - best.
    float* keys = keys_.reserve(size_);
    float* weights = weights_.reserve(size_);
    for (std::size_t i = 0; i < size_; ++i) {
        const double x = static_cast<double>(values_.data()[i] - best_);
        keys[i] = static_cast<float>(std::min(std::abs(x - expected), double{kMaxFloat}));
    }
    kernels_->exp_weights(values_.data(), size_, best_, 1.0f, weights);
    keep_until(boundary(mass * total, false, weights));
    find_best();
}

void Candidates::keep_top_p(double mass) {
    keep_top_p(mass, weight_sum(1.0f));
}

void Candidates::keep_top_p(double mass, double total) {
    float* weights = weights_.reserve(size_);
    kernels_->exp_weights(values_.data(), size_, best_, 1.0f, weights);
    set_distance_keys();
    keep_best_until(boundary(mass * total, false, weights));
}

void Candidates::keep_min_p(double ratio) {
    const auto lowest = static_cast<float>(std::log(ratio));
    keep_if([&](std::size_t i) { return values_.data()[i] - best_ >= lowest; });
}

void Candidates::keep_scaled_from(double lowest, float scale) {
    keep_if([&](std::size_t i) {
        return static_cast<double>((values_.data()[i] - best_) * scale) >= lowest;
    });
}

void Candidates::exclude_top_choices(double threshold) {
    float* weights = weights_.reserve(size_);
    kernels_->exp_weights(values_.data(), size_, best_, 1.0f, weights);
    const double least = threshold * weight_sum(1.0f);
    // The last in order of those that are probable enough stays.
    std::size_t count = 0, last = 0;
    for (std::size_t i = 0; i < size_; ++i) {
        if (weights[i] < least) continue;
        if (count == 0 || values_.data()[i] <= values_.data()[last]) last = i;
        ++count;
    }
    if (count < 2) return;
    keep_if([&](std::size_t i) { return weights[i] < least || i == last; });
    find_best();
}

std::size_t Candidates::draw(double number, float scale) {
    return draw(number, scale, weight_sum(scale));
}

std::size_t Candidates::draw(double number, float scale, double total) {
    float* weights = weights_.reserve(size_);
    kernels_->exp_weights(values_.data(), size_, best_, scale, weights);
    set_distance_keys();
    return boundary(number * total, true, weights);
}

double Candidates::weight_sum(float scale) {
    return kernels_->exp_sum(values_.data(), size_, best_, scale, kLowestExponent);
}

double Candidates::weight(std::size_t index, float scale) {
    return kernels_->exp_sum(values_.data() + index, 1, best_, scale, kLowestExponent);
}

std::span<const std::uint32_t> Candidates::ordered() {
    std::uint32_t* members = members_.reserve(size_);
    for (std::size_t i = 0; i < size_; ++i) members[i] = static_cast<std::uint32_t>(i);
    set_distance_keys();
    std::sort(members, members + size_,
              [this](std::uint32_t a, std::uint32_t b) { return is_before(a, b); });
    return {members, size_};
}

void Candidates::find_best() {
    best_ = *std::max_element(values_.data(), values_.data() + size_);
}

void Candidates::set_distance_keys() {
    float* keys = keys_.reserve(size_);
    const float* values = values_.data();
    for (std::size_t i = 0; i < size_; ++i) {
        const float key = best_ - values[i];
        keys[i] = key < kMaxFloat ? key : kMaxFloat;
    }
}

bool Candidates::is_before(std::uint32_t a, std::uint32_t b) {
    const float* keys = keys_.data();
    const float* values = values_.data();
    if (keys[a] != keys[b]) return keys[a] < keys[b];
    if (values[a] != values[b]) return values[a] > values[b];
    return a < b;
}

// One round of narrowing down: of `count` members, leaves those in the bucket of keys in which the
// sum of weights reaches the target, and adds the weight of the buckets before it to `before`.
// Returns how many are left; `count` where their keys cannot be told apart any further. There are
// more than kSortAtMost.
template <typename MemberOf, typename WeightOf, typename Reached>
std::size_t Candidates::narrow(std::size_t count, double& before, MemberOf member_of,
                               WeightOf weight_of, Reached reached) {
    const float* keys = keys_.data();
    std::int32_t* buckets = buckets_.reserve(count);
    std::uint32_t* members = members_.data();
    // Lanes of their own, so that no comparison waits for the one before.
    constexpr std::size_t kLanes = 8;
    std::array<float, kLanes> leasts, mosts;
    leasts.fill(kInfinity);
    mosts.fill(0.0f);
    for (std::size_t m = 0; m < count; m += kLanes) {
        // The last round goes over the last members again, where it would go beyond.
        const std::size_t start = std::min(m, count - kLanes);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const float key = keys[member_of(start + lane)];
            leasts[lane] = key < leasts[lane] ? key : leasts[lane];
            mosts[lane] = key > mosts[lane] ? key : mosts[lane];
        }
    }
    const float least = *std::min_element(leasts.begin(), leasts.end());
    const float most = *std::max_element(mosts.begin(), mosts.end());
    // Less than one bucket short of all, so that rounding cannot lead beyond the last.
    const float per_key = (static_cast<float>(kNumBuckets) - 0.5f) / (most - least);
    if (!(most > least) || !(per_key <= kMaxFloat)) return count;
    for (std::size_t m = 0; m < count; ++m) {
        buckets[m] = static_cast<std::int32_t>((keys[member_of(m)] - least) * per_key);
    }
    // Two tables in turn: neighbours often share a bucket, and would wait for each other.
    std::array<std::array<double, kNumBuckets>, 2> sums{};
    for (std::size_t m = 0; m < count; ++m) sums[m % 2][buckets[m]] += weight_of(member_of(m));
    // Should rounding keep all of them from the target, the last that weighs anything is chosen.
    std::int32_t chosen = 0;
    double sum = before, before_chosen = before;
    for (std::size_t bucket = 0; bucket < kNumBuckets; ++bucket) {
        const double added = sums[0][bucket] + sums[1][bucket];
        if (added == 0.0) continue;
        chosen = static_cast<std::int32_t>(bucket);
        before_chosen = sum;
        sum += added;
        if (reached(sum)) break;
    }
    before = before_chosen;
    std::size_t num_left = 0;
    for (std::size_t m = 0; m < count; ++m) {
        members[num_left] = static_cast<std::uint32_t>(member_of(m));
        num_left += buckets[m] == chosen;
    }
    return num_left;
}

// The first candidate, in order, with which the sum of weights reaches the target, or with
// `beyond` passes it; the last candidate where the sum never does. No weights: each counts 1.
// `before` is the weight of what comes before all of them.
std::uint32_t Candidates::boundary(double target, bool beyond, const float* weights,
                                   double before) {
    const float* keys = keys_.data();
    const float* values = values_.data();
    std::uint32_t* members = members_.reserve(size_);
    const auto reached = [=](double sum) { return beyond ? sum > target : sum >= target; };
    const auto weight_of = [=](std::size_t i) -> double { return weights ? weights[i] : 1.0; };
    // Not narrowed to 32 bits, which would keep the loops from being vectorized.
    const auto itself = [](std::size_t m) { return m; };
    const auto listed = [=](std::size_t m) { return members[m]; };

    std::size_t count = size_;
    if (count > kSortAtMost) count = narrow(count, before, itself, weight_of, reached);
    if (count == size_) {
        for (std::size_t i = 0; i < size_; ++i) members[i] = static_cast<std::uint32_t>(i);
    }
    for (int round = 1; count > kSortAtMost && round < kMaxRounds; ++round) {
        const std::size_t left = narrow(count, before, listed, weight_of, reached);
        if (left == count) break;
        count = left;
    }
    const auto is_equal = [=](std::uint32_t i) {
        return keys[i] == keys[members[0]] && values[i] == values[members[0]];
    };
    if (std::all_of(members, members + count, is_equal)) {
        // So many whole steps that none of them reaches the target; the rest is summed up.
        const double weight = weight_of(members[0]);
        const double steps = std::floor((target - before) / weight) - 2.0;
        if (steps > 0.0) {
            const double most = static_cast<double>(count - 1);
            const double skipped = std::min(steps, most);
            before += skipped * weight;
            for (std::size_t m = static_cast<std::size_t>(skipped); m < count; ++m) {
                before += weight;
                if (reached(before)) return members[m];
            }
            return members[count - 1];
        }
    } else {
        std::sort(members, members + count,
                  [this](std::uint32_t a, std::uint32_t b) { return is_before(a, b); });
    }
    for (std::size_t m = 0; m < count; ++m) {
        before += weight_of(members[m]);
        if (reached(before)) return members[m];
    }
    return members[count - 1];
}

// Keeps the candidates up to `last` in order of value.
void Candidates::keep_best_until(std::uint32_t last) {
    const float least = values_.data()[last];
    std::uint32_t* ids = ids_.data();
    float* kept = spare_values_.reserve(size_ + kCollectSlack);
    std::uint32_t* indices = members_.reserve(size_ + kCollectSlack);
    const std::size_t found = kernels_->collect(values_.data(), size_, least, 0, kept, indices);
    // Those equal to the last one are kept up to it only.
    std::size_t count = std::upper_bound(indices, indices + found, last) - indices;
    for (std::size_t j = count; j < found; ++j) {
        kept[count] = kept[j];
        indices[count] = indices[j];
        count += kept[j] > least;
    }
    for (std::size_t j = 0; j < count; ++j) ids[j] = ids[indices[j]];
    std::swap(values_, spare_values_);
    size_ = count;
}

// Keeps the candidates up to `last` in order of key.
void Candidates::keep_until(std::uint32_t last) {
    const float* keys = keys_.data();
    const float* values = values_.data();
    // By value: the values move while they are looked at.
    const float last_key = keys[last], last_value = values[last];
    keep_if([=](std::size_t i) {
        if (keys[i] != last_key) return keys[i] < last_key;
        if (values[i] != last_value) return values[i] > last_value;
        return i <= last;
    });
}

template <typename Kept>
void Candidates::keep_if(Kept kept) {
    float* values = values_.data();
    std::uint32_t* ids = ids_.data();
    std::size_t count = 0;
    for (std::size_t i = 0; i < size_; ++i) {
        const bool keep = kept(i);
        values[count] = values[i];
        ids[count] = ids[i];
        count += keep;
    }
    size_ = count;
}

}  // namespace tektra
