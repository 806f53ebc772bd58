// What the tokens so far say about the next one: how often each is present, and which tokens would
// continue a repetition. Knows neither logits nor what the tokens mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tektra {

// How often each token is present, of those that are.
class TokenCounts {
  public:
    struct Entry {
        std::int32_t token;
        std::int32_t count;  // 0: was present once
    };

    void add(std::int32_t token);
    void remove(std::int32_t token);  // that is present
    std::span<const Entry> entries() const { return entries_; }

  private:
    // Where `token` is in places_, or the free slot where it would be.
    std::size_t slot_of(std::int32_t token) const;
    void rebuild();

    std::vector<Entry> entries_;        // side by side: all of them are gone through for each token
    std::vector<std::int32_t> places_;  // in entries_, -1: free. Open addressing, a power of two
};

// A token that would continue a repetition, and how long the repetition before it is.
struct Repetition {
    std::int32_t token;
    std::size_t length;

    bool operator<(const Repetition& other) const {
        return token != other.token ? token < other.token : length > other.length;
    }
};

struct RepetitionScratch {
    std::vector<std::size_t> match_lengths;
    std::vector<Repetition> found;
};

// The tokens that would continue a repetition of at least `least_length` tokens, each with its
// longest: the longest run just before an earlier place of the token that equals the end of
// `tokens` and holds no breaker. Breakers are ascending; none of them is among the result. The
// work is linear in the number of tokens. The result lies in `scratch`.
std::span<const Repetition> find_repetitions(std::span<const std::int32_t> tokens,
                                             std::span<const std::int32_t> breakers,
                                             std::size_t least_length, RepetitionScratch& scratch);

}  // namespace tektra
