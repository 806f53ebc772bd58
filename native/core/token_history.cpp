#include "tektra/token_history.h"

#include <algorithm>

namespace tektra {

void TokenCounts::add(std::int32_t token) {
    if (2 * (entries_.size() + 1) > places_.size()) rebuild();
    std::int32_t& place = places_[slot_of(token)];
    if (place < 0) {
        place = static_cast<std::int32_t>(entries_.size());
        entries_.push_back({token, 0});
    }
    ++entries_[static_cast<std::size_t>(place)].count;
}

void TokenCounts::remove(std::int32_t token) {
    --entries_[static_cast<std::size_t>(places_[slot_of(token)])].count;
}

std::size_t TokenCounts::slot_of(std::int32_t token) const {
    const std::size_t mask = places_.size() - 1;
    // Fibonacci hashing: neighbouring ids are common and should not become neighbours here.
    std::size_t slot = (static_cast<std::uint32_t>(token) * 0x9E3779B1u >> 8) & mask;
    while (places_[slot] >= 0 && entries_[static_cast<std::size_t>(places_[slot])].token != token) {
        slot = (slot + 1) & mask;
    }
    return slot;
}

// Drops what has left the window, and makes room for as many again as remain.
void TokenCounts::rebuild() {
    std::erase_if(entries_, [](const Entry& entry) { return entry.count == 0; });
    std::size_t size = 64;
    while (size < 4 * (entries_.size() + 1)) size *= 2;
    places_.assign(size, -1);
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        places_[slot_of(entries_[i].token)] = static_cast<std::int32_t>(i);
    }
}

std::span<const Repetition> find_repetitions(std::span<const std::int32_t> tokens,
                                             std::span<const std::int32_t> breakers,
                                             std::size_t least_length, RepetitionScratch& scratch) {
    scratch.found.clear();
    const std::size_t n = tokens.size();
    const auto is_breaker = [&](std::int32_t token) {
        return std::binary_search(breakers.begin(), breakers.end(), token);
    };
    const auto from_end = [&](std::size_t i) { return tokens[n - 1 - i]; };
    std::size_t longest = 0;  // tokens at the end without a breaker
    while (longest < n && !is_breaker(from_end(longest))) ++longest;
    if (longest < least_length) return {};

    // The Z algorithm over the tokens from the end: match_lengths[i] is how many tokens before
    // the last i equal the last ones. [left, right) is the match that reaches furthest.
    auto& lengths = scratch.match_lengths;
    lengths.assign(n, 0);
    std::size_t left = 0, right = 0;
    for (std::size_t i = 1; i < n; ++i) {
        std::size_t length = i < right ? std::min(right - i, lengths[i - left]) : 0;
        while (i + length < n && from_end(length) == from_end(i + length)) ++length;
        lengths[i] = length;
        if (i + length > right) {
            left = i;
            right = i + length;
        }
        const std::int32_t next = from_end(i - 1);
        length = std::min(length, longest);
        if (length >= least_length && !is_breaker(next)) scratch.found.push_back({next, length});
    }
    std::sort(scratch.found.begin(), scratch.found.end());
    const auto end =
        std::unique(scratch.found.begin(), scratch.found.end(),
                    [](const Repetition& a, const Repetition& b) { return a.token == b.token; });
    scratch.found.erase(end, scratch.found.end());
    return scratch.found;
}

}  // namespace tektra
