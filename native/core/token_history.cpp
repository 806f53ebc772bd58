#include "tektra/token_history.h"

#include <algorithm>

namespace tektra {

void TokenCounts::add(std::int32_t token) {
    if (2 * (num_used_ + 1) > entries_.size()) grow();
    Entry& entry = find(token);
    if (entry.token < 0) {
        entry.token = token;
        ++num_used_;
    }
    ++entry.count;
}

void TokenCounts::remove(std::int32_t token) {
    --find(token).count;
}

TokenCounts::Entry& TokenCounts::find(std::int32_t token) {
    const std::size_t mask = entries_.size() - 1;
    // Fibonacci hashing: neighbouring ids are common and should not become neighbours here.
    std::size_t slot = (static_cast<std::uint32_t>(token) * 0x9E3779B1u >> 8) & mask;
    while (entries_[slot].token >= 0 && entries_[slot].token != token) slot = (slot + 1) & mask;
    return entries_[slot];
}

void TokenCounts::grow() {
    std::vector<Entry> old(std::max<std::size_t>(64, 2 * entries_.size()));
    old.swap(entries_);
    num_used_ = 0;
    for (const Entry& entry : old) {
        if (entry.count == 0) continue;  // free, or left the window
        find(entry.token) = entry;
        ++num_used_;
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
