// Chooses the tokens of one request from rows of logits, as the settings of the request say.
//
// What each setting means stands in src/tektra/engine/sampling_params.py, and what each step does
// in reference_sampler.py next to it, which this agrees with token for token. Knows nothing of the
// model, the batch or the tokenizer, and looks at no CPU features: the kernels are handed in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "tektra/sampling_kernels.h"
#include "tektra/token_history.h"

namespace tektra {

class Candidates;
struct BlockedRow;

struct SamplerConfig {
    std::uint64_t seed = 0;
    double temperature = 0.8;
    std::int32_t top_k = 40;
    double top_p = 0.95;
    double min_p = 0.05;
    double typical_p = 1.0;
    double repetition_penalty = 1.0;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    std::int32_t penalty_last_n = -1;
    double dry_multiplier = 0.0;
    double dry_base = 1.75;
    std::int32_t dry_allowed_length = 2;
    std::int32_t dry_penalty_last_n = -1;
    double xtc_probability = 0.0;
    double xtc_threshold = 0.1;
    std::int32_t mirostat = 0;  // 0 or 2
    double mirostat_tau = 5.0;
    double mirostat_eta = 0.1;
    std::int32_t logprobs = -1;  // -1: none are reported
};

// A bias at or below this excludes the token.
inline constexpr double kBanBias = -100.0;

// Most entries of SamplerConfig::logprobs.
inline constexpr std::int32_t kMaxLogprobs = 100;

// Masks, bans and suppressions leave no token to choose from.
struct NoTokenLeft : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Sampled {
    std::int32_t token;
    double logprob;  // of the model itself; 0 where not asked for
    // The most probable tokens, best first; valid until the next call of sample.
    std::span<const std::int32_t> top_ids;
    std::span<const double> top_logprobs;
};

// Memory that a call of Sampler::sample works in. It grows to what is needed and holds nothing
// between calls, so that samplers may share one, one at a time.
class SamplerScratch {
  public:
    SamplerScratch();
    ~SamplerScratch();
    SamplerScratch(const SamplerScratch&) = delete;
    SamplerScratch& operator=(const SamplerScratch&) = delete;

  private:
    friend class Sampler;
    struct Buffers;
    std::unique_ptr<Buffers> buffers_;
};

class Sampler {
  public:
    // Throws std::invalid_argument where a token id is not below vocab_size, where the settings
    // are out of range or where bias_ids and bias_values differ in length.
    Sampler(const SamplingKernels* kernels, std::size_t vocab_size, const SamplerConfig& config,
            std::span<const std::int32_t> bias_ids, std::span<const double> bias_values,
            std::span<const std::int32_t> breaker_ids);

    // Adds a token that was not sampled here to the history. Throws std::invalid_argument where
    // the id is not in the vocabulary; the history is then unchanged.
    void accept(std::int32_t token);
    void accept_many(std::span<const std::int32_t> tokens);

    // Chooses a token from `vocab` logits, which are not modified, and adds it to the history.
    // mask, where not null, has a bit for each token (bit t % 32 of word t / 32), set where the
    // token is allowed. Nothing changes where it throws: std::invalid_argument for a wrong size or
    // id, std::runtime_error for logits that are NaN or all -inf, NoTokenLeft.
    Sampled sample(const float* logits, std::size_t vocab, const std::uint32_t* mask,
                   const std::int32_t* suppressed, std::size_t num_suppressed,
                   SamplerScratch& scratch);

    std::uint64_t num_generated() const { return num_generated_; }
    std::size_t vocab_size() const { return vocab_size_; }

  private:
    using Buffers = SamplerScratch::Buffers;

    void push(std::int32_t token);
    void check_id(std::int32_t token) const;
    bool has_penalties() const;
    bool has_dry() const;
    void exclude(std::int32_t token, const float* logits, float* values) const;
    void penalize(float* values) const;
    std::int32_t choose(BlockedRow& row, Buffers& buffers);
    std::int32_t choose_filtered(BlockedRow& row, Buffers& buffers) const;
    std::int32_t choose_of_equals(std::size_t size, bool has_xtc, double number) const;
    std::int32_t choose_mirostat(const BlockedRow& row, Buffers& buffers);
    double total_weight(BlockedRow& row) const;
    double weight_from(const BlockedRow& row, double lowest, float scale) const;
    void report(Sampled& sampled, BlockedRow& raw, Candidates& candidates);

    const SamplingKernels* kernels_;
    std::size_t vocab_size_;
    SamplerConfig config_;
    std::vector<std::int32_t> bias_ids_;
    std::vector<double> bias_values_;
    std::vector<std::int32_t> breaker_ids_;  // ascending
    std::vector<std::int32_t> history_;
    TokenCounts counts_;  // of the last penalty_last_n tokens, where there are penalties
    std::uint64_t num_generated_ = 0;
    double mirostat_bound_;
    std::vector<std::int32_t> top_ids_;
    std::vector<double> top_logprobs_;
};

}  // namespace tektra
