// The codebooks of the IQ types: a code word of a block stands for eight or four levels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tektra::scalar {

template <int kLevels, size_t kWords>
struct Codebook {
    uint8_t level[kWords][kLevels];  // 0 .. 2, or 0 .. 7 where a word has four
};

const Codebook<8, 256>& codebook_iq2_xxs();
const Codebook<8, 512>& codebook_iq2_xs();
const Codebook<8, 1024>& codebook_iq2_s();
const Codebook<4, 256>& codebook_iq3_xxs();
const Codebook<4, 512>& codebook_iq3_s();
const Codebook<8, 2048>& codebook_iq1_s();  // and of IQ1_M

}  // namespace tektra::scalar
