#include "tektra/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "sampler_buckets.h"
#include "sampler_candidates.h"
#include "tektra/philox.h"

namespace tektra {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMaxFloat = std::numeric_limits<float>::max();

// Up to here top-k lists the candidates one by one.
constexpr std::size_t kMostListed = 1024;

// Above this a DRY penalty stops growing: enough to put a token last, and still a finite logit.
constexpr double kMaxDryPenalty = 1e30;

// To float32 without making an infinity of a finite number: that would exclude the token.
float narrowed(double value) {
    if (!std::isfinite(value)) return static_cast<float>(value);
    constexpr double most = kMaxFloat;
    return static_cast<float>(std::clamp(value, -most, most));
}

// How far below the best value the candidates lie that may be left out because all of them
// together weigh less than half of `left` * total. It is half so that rounding cannot matter.
double negligible_distance(std::size_t n, double left, double total) {
    if (!(left > 0.0)) return std::numeric_limits<double>::infinity();
    return std::log(static_cast<double>(n) / (0.5 * left * total));
}

// Capped so that 0 * inf never makes a NaN.
float inverse_temperature(double temperature) {
    return static_cast<float>(std::min(1.0 / temperature, static_cast<double>(kMaxFloat)));
}

// The best token, the one with the lowest id where several are equally good.
std::int32_t first_best(const BlockedRow& row) {
    const float* maxima = row.block_maxima;
    const auto block = std::find(maxima, maxima + row.num_blocks(), row.best) - maxima;
    const float* end = row.values + row.size;
    return static_cast<std::int32_t>(std::find(row.values + block * kSamplingBlock, end, row.best) -
                                     row.values);
}

bool is_all_equal(const BlockedRow& row) {
    const auto is_best = [&](float value) { return value == row.best; };
    return std::all_of(row.block_maxima, row.block_maxima + row.num_blocks(), is_best) &&
           std::all_of(row.values, row.values + row.size, is_best);
}

[[noreturn]] void throw_nan() {
    throw std::runtime_error("the model returned logits that are not a number (NaN)");
}

}  // namespace

struct SamplerScratch::Buffers {
    Buffer<float> edited;
    Buffer<float> edited_maxima;
    Buffer<float> raw_maxima;
    Buffer<float> flattened;
    Candidates candidates;
    BucketedCandidates bucketed;
    RepetitionScratch repetitions;

    // Finds the maxima of `values`; true where there is a NaN.
    static bool block(const SamplingKernels& kernels, const float* values, std::size_t n,
                      Buffer<float>& maxima, BlockedRow& row) {
        row = {values, n, nullptr, -kInfinity, 0.0};
        float* out = maxima.reserve(row.num_blocks());
        row.block_maxima = out;
        if (kernels.block_max(values, n, out)) return true;
        row.best = *std::max_element(out, out + row.num_blocks());
        return false;
    }

    // Where there are +inf, those tokens share all the probability.
    void flatten_infinities(const SamplingKernels& kernels, Buffer<float>& values,
                            Buffer<float>& maxima, BlockedRow& row) {
        if (row.best != kInfinity) return;
        const float* from = row.values;
        float* to = values.reserve(row.size);
        for (std::size_t i = 0; i < row.size; ++i) to[i] = from[i] == kInfinity ? 0.0f : -kInfinity;
        block(kernels, to, row.size, maxima, row);
    }
};

SamplerScratch::SamplerScratch() : buffers_(std::make_unique<Buffers>()) {}
SamplerScratch::~SamplerScratch() = default;

Sampler::Sampler(const SamplingKernels* kernels, std::size_t vocab_size,
                 const SamplerConfig& config, std::span<const std::int32_t> bias_ids,
                 std::span<const double> bias_values, std::span<const std::int32_t> breaker_ids)
    : kernels_(kernels),
      vocab_size_(vocab_size),
      config_(config),
      bias_ids_(bias_ids.begin(), bias_ids.end()),
      bias_values_(bias_values.begin(), bias_values.end()),
      breaker_ids_(breaker_ids.begin(), breaker_ids.end()),
      mirostat_bound_(2.0 * config.mirostat_tau) {
    if (vocab_size < 1 || vocab_size > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument(std::to_string(vocab_size) + " is not a vocabulary");
    }
    if (!(config.temperature >= 0.0) || !(config.repetition_penalty > 0.0)) {
        throw std::invalid_argument("the temperature or the repetition penalty is out of range");
    }
    if (config.logprobs < -1 || config.logprobs > kMaxLogprobs || config.dry_allowed_length < 1 ||
        (config.mirostat != 0 && config.mirostat != 2)) {
        throw std::invalid_argument("logprobs, DRY or mirostat settings are out of range");
    }
    if (bias_ids.size() != bias_values.size()) {
        throw std::invalid_argument("there are not as many biases as tokens to bias");
    }
    for (const std::int32_t token : bias_ids_) check_id(token);
    for (const std::int32_t token : breaker_ids_) check_id(token);
    std::sort(breaker_ids_.begin(), breaker_ids_.end());
    top_ids_.reserve(std::max(config.logprobs, 0));
    top_logprobs_.reserve(std::max(config.logprobs, 0));
}

void Sampler::accept(std::int32_t token) {
    check_id(token);
    push(token);
}

void Sampler::accept_many(std::span<const std::int32_t> tokens) {
    for (const std::int32_t token : tokens) check_id(token);
    for (const std::int32_t token : tokens) push(token);
}

Sampled Sampler::sample(const float* logits, std::size_t vocab, const std::uint32_t* mask,
                        const std::int32_t* suppressed, std::size_t num_suppressed,
                        SamplerScratch& scratch) {
    if (vocab != vocab_size_) {
        throw std::invalid_argument("there are " + std::to_string(vocab) +
                                    " logits; the vocabulary has " + std::to_string(vocab_size_) +
                                    " tokens");
    }
    for (std::size_t i = 0; i < num_suppressed; ++i) check_id(suppressed[i]);
    Buffers& buffers = *scratch.buffers_;
    buffers.candidates.use(kernels_);

    std::span<const Repetition> repetitions;
    if (has_dry()) {
        const auto count = static_cast<std::size_t>(config_.dry_penalty_last_n);
        const std::span<const std::int32_t> all(history_);
        const bool whole = config_.dry_penalty_last_n < 0 || count >= all.size();
        repetitions = find_repetitions(whole ? all : all.last(count), breaker_ids_,
                                       static_cast<std::size_t>(config_.dry_allowed_length),
                                       buffers.repetitions);
    }

    // The model's own logits are looked at where they are what is sampled from or reported.
    const bool penalized = has_penalties() && !history_.empty();
    const bool is_edited = mask != nullptr || num_suppressed > 0 || !bias_ids_.empty() ||
                           penalized || !repetitions.empty();
    const bool is_reported = config_.logprobs >= 0;
    BlockedRow raw{}, row{};
    if (!is_edited || is_reported) {
        if (Buffers::block(*kernels_, logits, vocab, buffers.raw_maxima, raw)) throw_nan();
        row = raw;
    }
    if (is_edited) {
        float* values = buffers.edited.reserve(vocab);
        if (mask == nullptr) {
            std::memcpy(values, logits, vocab * sizeof(float));
        } else if (kernels_->masked_copy(logits, mask, vocab, values)) {
            throw_nan();
        }
        for (std::size_t i = 0; i < bias_ids_.size(); ++i) {
            const std::int32_t token = bias_ids_[i];
            if (bias_values_[i] <= kBanBias) {
                exclude(token, logits, values);
            } else {
                values[token] = narrowed(values[token] + bias_values_[i]);
            }
        }
        for (std::size_t i = 0; i < num_suppressed; ++i) exclude(suppressed[i], logits, values);
        if (penalized) penalize(values);
        for (const Repetition& repetition : repetitions) {
            const auto excess = static_cast<double>(repetition.length) - config_.dry_allowed_length;
            double penalty = kMaxDryPenalty;
            if (std::log(config_.dry_multiplier) + excess * std::log(config_.dry_base) <
                std::log(kMaxDryPenalty)) {
                penalty = config_.dry_multiplier * std::pow(config_.dry_base, excess);
            }
            values[repetition.token] = narrowed(values[repetition.token] - penalty);
        }
        if (Buffers::block(*kernels_, values, vocab, buffers.edited_maxima, row)) throw_nan();
    }
    if (row.best == -kInfinity) {
        if (std::all_of(logits, logits + vocab, [](float v) { return v == -kInfinity; })) {
            throw std::runtime_error("the model returned -inf for every token");
        }
        throw NoTokenLeft("the masks and bans on this request leave no token to choose from");
    }
    // Into the buffers of the edited row, which is not looked at again; the raw one keeps its own.
    buffers.flatten_infinities(*kernels_, buffers.flattened, buffers.edited_maxima, row);

    Sampled sampled{choose(row, buffers), 0.0, {}, {}};
    push(sampled.token);
    ++num_generated_;
    if (is_reported) {
        if (!is_edited) raw = row;
        buffers.flatten_infinities(*kernels_, buffers.flattened, buffers.raw_maxima, raw);
        report(sampled, raw, buffers.candidates);
    }
    return sampled;
}

void Sampler::push(std::int32_t token) {
    history_.push_back(token);
    if (!has_penalties()) return;
    counts_.add(token);
    if (config_.penalty_last_n < 0) return;
    const auto window = static_cast<std::size_t>(config_.penalty_last_n);
    if (history_.size() > window) counts_.remove(history_[history_.size() - 1 - window]);
}

void Sampler::check_id(std::int32_t token) const {
    if (token < 0 || static_cast<std::size_t>(token) >= vocab_size_) {
        throw std::invalid_argument("token " + std::to_string(token) +
                                    " is not in the vocabulary of " + std::to_string(vocab_size_) +
                                    " tokens");
    }
}

bool Sampler::has_penalties() const {
    return config_.penalty_last_n != 0 &&
           (config_.repetition_penalty != 1.0 || config_.presence_penalty != 0.0 ||
            config_.frequency_penalty != 0.0);
}

bool Sampler::has_dry() const {
    return config_.dry_multiplier > 0.0 && config_.dry_penalty_last_n != 0;
}

void Sampler::exclude(std::int32_t token, const float* logits, float* values) const {
    if (logits[token] != logits[token]) throw_nan();  // a ban does not hide a broken model
    values[token] = -kInfinity;
}

void Sampler::penalize(float* values) const {
    const double rate = config_.repetition_penalty;
    for (const TokenCounts::Entry& entry : counts_.entries()) {
        if (entry.count == 0) continue;
        double value = values[entry.token];
        value = value <= 0.0 ? value * rate : value / rate;
        value -= entry.count * config_.frequency_penalty + config_.presence_penalty;
        values[entry.token] = narrowed(value);
    }
}

std::int32_t Sampler::choose(BlockedRow& row, Buffers& buffers) {
    if (config_.temperature > 0.0) {
        return config_.mirostat ? choose_mirostat(row, buffers) : choose_filtered(row, buffers);
    }
    return first_best(row);
}

// The filters from top-k to XTC, then the draw. Where they allow it, candidates that cannot come
// through are never collected, which changes the work and not the outcome.
std::int32_t Sampler::choose_filtered(BlockedRow& row, Buffers& buffers) const {
    Candidates& candidates = buffers.candidates;
    const bool has_typical = config_.typical_p < 1.0;
    const bool has_top_p = config_.top_p < 1.0;
    const bool has_min_p = config_.min_p > 0.0;
    const bool has_xtc = uniform(config_.seed, num_generated_, RandomPurpose::kExcludeTopChoices) <
                         config_.xtc_probability;
    const double number = uniform(config_.seed, num_generated_, RandomPurpose::kToken);
    if (is_all_equal(row)) return choose_of_equals(row.size, has_xtc, number);
    const float scale = inverse_temperature(config_.temperature);
    const double min_p_distance =
        has_min_p ? -std::log(config_.min_p) : std::numeric_limits<double>::infinity();

    const bool has_top_k = config_.top_k > 0 && static_cast<std::size_t>(config_.top_k) < row.size;
    const bool is_filtered = has_typical || has_top_p || has_xtc;
    const double left = has_typical            ? 1.0 - config_.typical_p
                        : has_top_p            ? 1.0 - config_.top_p
                        : has_min_p || has_xtc ? 0.0
                                               : 1.0 - number;
    bool is_many = false;
    if (has_top_k) {
        is_many = static_cast<std::size_t>(config_.top_k) > kMostListed;
    } else {
        const float judged = is_filtered ? 1.0f : scale;
        double distance = has_typical ? std::numeric_limits<double>::infinity() : min_p_distance;
        if (left > 0.0) {
            const double total = BucketedCandidates::estimated_total(*kernels_, row, judged);
            distance = std::min(distance, negligible_distance(row.size, left, total) / judged);
        }
        is_many = BucketedCandidates::has_many(row, distance);
    }
    BucketedCandidates& bucketed = buffers.bucketed;
    bool is_bucketed = is_many;
    if (is_many) {
        bucketed.start(kernels_, row, scale, is_filtered, has_typical, candidates);
        if (has_top_k) bucketed.keep_best(static_cast<std::size_t>(config_.top_k));
        if (has_typical) is_bucketed = bucketed.keep_typical(config_.typical_p);
    }
    if (is_bucketed) {
        if (has_top_p) bucketed.keep_top_p(config_.top_p);
        if (has_min_p) bucketed.keep_min_p(config_.min_p);
        if (has_xtc) bucketed.exclude_top_choices(config_.xtc_threshold);
        return bucketed.draw(number);
    }
    if (has_top_k) {
        candidates.collect_best(row, static_cast<std::size_t>(config_.top_k));
        if (has_typical) candidates.keep_typical(config_.typical_p);
        if (has_top_p) candidates.keep_top_p(config_.top_p);
    } else if (has_typical) {
        const ExpMoments moments = kernels_->exp_moments(row.values, row.size, row.best, 1.0f);
        row.total_weight = moments.total;
        const double expected = moments.first / moments.total;
        double distance = negligible_distance(row.size, 1.0 - config_.typical_p, moments.total);
        // What is left out is less typical than all that is kept only if the best token is nearer
        // to the expected surprise than it.
        if (2.0 * expected + distance < 0.0) distance = std::numeric_limits<double>::infinity();
        candidates.collect(row, safe_floor(row.best, distance));
        candidates.keep_typical(config_.typical_p, moments.total, expected);
        if (has_top_p) candidates.keep_top_p(config_.top_p);
    } else if (has_top_p) {
        const double total = total_weight(row);
        const double distance = negligible_distance(row.size, 1.0 - config_.top_p, total);
        candidates.collect(row, safe_floor(row.best, std::min(distance, min_p_distance)));
        candidates.keep_top_p(config_.top_p, total);
    } else if (has_min_p || has_xtc) {
        candidates.collect(row, safe_floor(row.best, min_p_distance));
    } else {
        const double total =
            kernels_->exp_sum(row.values, row.size, row.best, scale, kLowestExponent);
        const double distance = negligible_distance(row.size, 1.0 - number, total) / scale;
        candidates.collect(row, safe_floor(row.best, distance));
        return candidates.id(candidates.draw(number, scale, total));
    }
    if (has_min_p) candidates.keep_min_p(config_.min_p);
    if (has_xtc) candidates.exclude_top_choices(config_.xtc_threshold);
    return candidates.id(candidates.draw(number, scale));
}

// The same where all are equally good: they are then in order of id, and each weighs 1.
std::int32_t Sampler::choose_of_equals(std::size_t size, bool has_xtc, double number) const {
    double left = static_cast<double>(size);
    if (config_.top_k > 0) left = std::min(left, static_cast<double>(config_.top_k));
    if (config_.typical_p < 1.0) left = std::max(1.0, std::ceil(config_.typical_p * left));
    if (config_.top_p < 1.0) left = std::max(1.0, std::ceil(config_.top_p * left));
    if (has_xtc && 1.0 >= config_.xtc_threshold * left) return static_cast<std::int32_t>(left) - 1;
    return static_cast<std::int32_t>(std::min(std::floor(number * left), left - 1.0));
}

// Version 2, after Basu et al. 2021; the bound on the surprise starts at twice the target.
std::int32_t Sampler::choose_mirostat(const BlockedRow& row, Buffers& buffers) {
    const float scale = inverse_temperature(config_.temperature);
    BucketedCandidates& bucketed = buffers.bucketed;
    const double reach = mirostat_bound_ * std::log(2.0) -
                         std::log(BucketedCandidates::estimated_total(*kernels_, row, scale));
    const bool is_many = BucketedCandidates::has_many(row, reach / scale);
    if (is_many) bucketed.start(kernels_, row, scale, false, false, buffers.candidates);
    const double total =
        is_many ? bucketed.drawn_total()
                : kernels_->exp_sum(row.values, row.size, row.best, scale, kLowestExponent);
    const double lowest = std::log(total) - mirostat_bound_ * std::log(2.0);
    std::int32_t token;
    double surprise = 0.0;
    if (lowest > 0.0) {  // even the best is too surprising
        token = first_best(row);
    } else {
        const double number = uniform(config_.seed, num_generated_, RandomPurpose::kToken);
        if (is_many) {
            bucketed.keep_scaled_from(lowest);
            token = bucketed.draw(number);
            surprise = -std::log2(bucketed.drawn_weight(token) / bucketed.drawn_total());
            mirostat_bound_ -= config_.mirostat_eta * (surprise - config_.mirostat_tau);
            return token;
        }
        Candidates& candidates = buffers.candidates;
        const double kept = weight_from(row, lowest, scale);
        const double distance =
            std::min(-lowest, negligible_distance(row.size, 1.0 - number, kept));
        candidates.collect(row, safe_floor(row.best, distance / scale));
        candidates.keep_scaled_from(lowest, scale);
        const std::size_t index = candidates.draw(number, scale, kept);
        token = candidates.id(index);
        surprise = -std::log2(candidates.weight(index, scale) / kept);
    }
    mirostat_bound_ -= config_.mirostat_eta * (surprise - config_.mirostat_tau);
    return token;
}

// Sum of exp((value - best) * scale) where the exponent is at least `lowest`, at most 0.
double Sampler::weight_from(const BlockedRow& row, double lowest, float scale) const {
    auto from = static_cast<float>(std::max(lowest, static_cast<double>(kLowestExponent)));
    if (from < lowest) from = std::nextafter(from, kInfinity);
    const float floor = safe_floor(row.best, -lowest / scale);
    double sum = 0.0;
    for (std::size_t block = 0; block < row.num_blocks(); ++block) {
        if (row.block_maxima[block] < floor) continue;
        const std::size_t start = block * kSamplingBlock;
        sum += kernels_->exp_sum(row.values + start, std::min(kSamplingBlock, row.size - start),
                                 row.best, scale, from);
    }
    return sum;
}

double Sampler::total_weight(BlockedRow& row) const {
    if (row.total_weight == 0.0) {
        row.total_weight = kernels_->exp_sum(row.values, row.size, row.best, 1.0f, kLowestExponent);
    }
    return row.total_weight;
}

void Sampler::report(Sampled& sampled, BlockedRow& raw, Candidates& candidates) {
    const double log_total = std::log(total_weight(raw));
    sampled.logprob = static_cast<double>(raw.values[sampled.token] - raw.best) - log_total;
    top_ids_.clear();
    top_logprobs_.clear();
    if (config_.logprobs > 0) {
        candidates.collect_best(raw, static_cast<std::size_t>(config_.logprobs));
        for (const std::uint32_t index : candidates.ordered()) {
            const std::int32_t token = candidates.id(index);
            top_ids_.push_back(token);
            top_logprobs_.push_back(static_cast<double>(raw.values[token] - raw.best) - log_total);
        }
    }
    sampled.top_ids = top_ids_;
    sampled.top_logprobs = top_logprobs_;
}

}  // namespace tektra
