// Random numbers that are a function of a seed and a counter: Philox 4x32 with ten rounds
// (Salmon et al. 2011, Random123). No state, so a request's numbers depend on no other request.
#pragma once

#include <array>
#include <cstdint>

namespace tektra {

inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                               std::array<std::uint32_t, 2> key) {
    auto [c0, c1, c2, c3] = counter;
    auto [k0, k1] = key;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t first = std::uint64_t{0xD2511F53} * c0;
        const std::uint64_t second = std::uint64_t{0xCD9E8D57} * c2;
        c0 = static_cast<std::uint32_t>(second >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(second);
        c2 = static_cast<std::uint32_t>(first >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(first);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return {c0, c1, c2, c3};
}

// What a random number is for; part of its counter.
enum class RandomPurpose : std::uint32_t { kToken = 0, kExcludeTopChoices = 1 };

// From 0 to below 1, with 53 random bits.
inline double uniform(std::uint64_t seed, std::uint64_t index, RandomPurpose purpose) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                    static_cast<std::uint32_t>(purpose), 0},
                   {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    const std::uint64_t bits = std::uint64_t{words[1]} << 32 | words[0];
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace tektra
