// Packed weights: the neighbouring rows of a matrix interleaved, as many as a vector of the
// instruction set holds floats (its lanes: 8 or 16), so that one vector holds the same thing of all
// of them and scales are vectors.
//
// A matrix is a sequence of groups of so many rows (the last one padded with zero scales); a group
// is the sequence of its blocks along the width. Inside 32 elements of the width, "register" j
// (0..7) stands for elements 4 j .. 4 j + 3 of all rows, in bytes 4 * row + element % 4: what one
// unsigned x signed byte multiply-add takes, with the four activations broadcast.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tektra/quant_blocks.h"

namespace tektra {

// Packed matrices are also kept in files (docs/structure.md). Raise this whenever the same weights
// would be packed into other bytes: another struct below, or another order of what is in one.
constexpr int kPackedVersion = 3;

// Integers of 2 to 6 bits of 32 elements, without gaps. They are placed so
// that taking them out costs few operations:
//   2 bits  bits 2 s of r[h] belong to register 4 h + s
//   3 bits  r[0]: register 0, 1, and bits 0-1 of 6; r[1]: 2, 3, bit 2 of 6 and bit 0 of 7;
//           r[2]: 4, 5, and bits 1-2 of 7
//   4 bits  r[j]: register j (low) and register j + 4 (high)
//   5 bits  r[i]: register i (low five bits); its upper three: bits 0-2 of 5, of 6 and of 7 in
//           r[0], r[2] and r[4]; r[1]: bits 3-4 of 5, then bit 3 of 7; r[3]: bits 3-4 of 6, then
//           bit 4 of 7
//   6 bits  r[i]: register i (low six bits); its upper two: bits 0-1, 2-3, 4-5 of register 6 in
//           r[0] to r[2], of register 7 in r[3] to r[5]
template <int kLanes, int kBits>
struct Fields {
    uint8_t r[kBits][4 * kLanes];
};

template <int kLanes>
struct PackedQ4_0 {
    half_t d[kLanes];
    Fields<kLanes, 4> q;
};
static_assert(sizeof(PackedQ4_0<8>) == 8 * sizeof(BlockQ4_0));

template <int kLanes>
struct PackedQ4_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Fields<kLanes, 4> q;
};
static_assert(sizeof(PackedQ4_1<8>) == 8 * sizeof(BlockQ4_1));

template <int kLanes>
struct PackedQ5_0 {
    half_t d[kLanes];
    Fields<kLanes, 5> q;
};
static_assert(sizeof(PackedQ5_0<8>) == 8 * sizeof(BlockQ5_0));

template <int kLanes>
struct PackedQ5_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Fields<kLanes, 5> q;
};
static_assert(sizeof(PackedQ5_1<8>) == 8 * sizeof(BlockQ5_1));

template <int kLanes>
struct PackedQ8_0 {
    half_t d[kLanes];
    int8_t q[8][4 * kLanes];  // [register][byte]
};
static_assert(sizeof(PackedQ8_0<8>) == 8 * sizeof(BlockQ8_0));

// The K types keep their integer scales: a byte each, so that they widen with one instruction.
template <int kLanes>
struct PackedQ2_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[16][kLanes];
    uint8_t min[16][kLanes];
    Fields<kLanes, 2> q[8];
};
static_assert(sizeof(PackedQ2_K<8>) == 800);

template <int kLanes>
struct PackedQ3_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    Fields<kLanes, 3> q[8];
};
static_assert(sizeof(PackedQ3_K<8>) == 912);

template <int kLanes>
struct PackedQ4_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Fields<kLanes, 4> q[8];
};
static_assert(sizeof(PackedQ4_K<8>) == 1184);

template <int kLanes>
struct PackedQ5_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Fields<kLanes, 5> q[8];
};
static_assert(sizeof(PackedQ5_K<8>) == 1440);

template <int kLanes>
struct PackedQ6_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    Fields<kLanes, 6> q[8];
};
static_assert(sizeof(PackedQ6_K<8>) == 1680);

// Types whose fields are numbers of levels: what a field stands for, with an offset that makes it
// unsigned. Code words are looked up when a matrix is packed, so that multiplying needs no more
// than a table of 16 bytes.
struct Levels {
    uint8_t at[16];
    int offset;  // level = at[field] - offset
};
constexpr Levels kLevelsIQ2 = {{0, 18, 35, 51, 68, 86}, 43};
constexpr Levels kLevelsIQ3 =  // halves: signs and seven magnitudes of 2, 6 .. 26, and one of 31
    {{0, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 62}, 31};
constexpr Levels kLevelsIQ4 = {
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241}, 128};
constexpr Levels kLevelsFP4 = {{12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0}, 12};
// Levels -1 .. 1 and an eighth more or less: an eighth of 2 * at - 9.
constexpr Levels kLevelsIQ1 = {{0, 1, 4, 5, 8, 9}, 0};

// Super-blocks of 256 with d, and a scale for each of their parts.
template <int kLanes, int kBits, int kScales, class Scale>
struct PackedScaled {
    half_t d[kLanes];
    Scale scale[kScales][kLanes];
    Fields<kLanes, kBits> q[8];
};
template <int kLanes>
using PackedIQ2_XXS = PackedScaled<kLanes, 3, 8, uint8_t>;  // numbers of kLevelsIQ2
template <int kLanes>
using PackedIQ2_S = PackedScaled<kLanes, 3, 16, uint8_t>;  // and IQ2_XS
template <int kLanes>
using PackedIQ3 = PackedScaled<kLanes, 4, 8, uint8_t>;  // IQ3_XXS: of kLevelsIQ3; IQ3_S: 2 f - 15
template <int kLanes>
using PackedIQ1_M = PackedScaled<kLanes, 3, 16, uint8_t>;  // numbers of kLevelsIQ1
template <int kLanes>
using PackedIQ4_XS = PackedScaled<kLanes, 4, 8, int8_t>;  // numbers of kLevelsIQ4
static_assert(sizeof(PackedIQ2_XXS<8>) == 848);
static_assert(sizeof(PackedIQ2_S<8>) == 912);
static_assert(sizeof(PackedIQ3<8>) == 1104);
static_assert(sizeof(PackedIQ4_XS<8>) == 1104);

// d * (scale * q - min / 8)
template <int kLanes>
struct PackedIQ1_S {
    half_t d[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Fields<kLanes, 2> q[8];
};
static_assert(sizeof(PackedIQ1_S<8>) == 656);

template <int kLanes>
struct PackedIQ4_NL {
    half_t d[kLanes];
    Fields<kLanes, 4> q;
};
static_assert(sizeof(PackedIQ4_NL<8>) == 8 * sizeof(BlockIQ4_NL));

template <int kLanes>
struct PackedMXFP4 {
    uint8_t e[kLanes];  // as in the file; 0 and 1, scales below 2^-126, count as 0
    Fields<kLanes, 4> q;
};
static_assert(sizeof(PackedMXFP4<8>) == 8 * sizeof(BlockMXFP4));

template <int kLanes>
struct PackedNVFP4 {
    half_t scale[4][kLanes];  // halved
    Fields<kLanes, 4> q[2];
};
static_assert(sizeof(PackedNVFP4<8>) == 8 * 40);

// d * (q - 1): TQ1_0, TQ2_0, Q1_0 (0 or 2) and Q2_0, for blocks of so many elements
template <int kLanes, int kWidth>
struct PackedTwoBits {
    half_t d[kLanes];
    Fields<kLanes, 2> q[kWidth / 32];
};
static_assert(sizeof(PackedTwoBits<8, 256>) == 8 * sizeof(BlockTQ2_0));

// Float weights: element k of all rows side by side. Element is float, half_t or uint16_t.
template <int kLanes, class Element>
struct PackedFloat {
    Element w[kLanes];
};

// Activations quantized to int8, 32 elements of a row: x ~ D * factor[half] * q, where D belongs to
// the row. A factor for each half of the block costs little beside the products and halves the
// divergence from float activations (docs/log.md); that factors are whole numbers lets them be
// applied by the integer instruction that adds up the products. Sums are of factor * q, which is
// what multiplies the mins of the weights, so that rounding errors of q meet centred weights.
struct ActivationBlock {
    int8_t q[32];
    int16_t twice[2][2];  // each factor twice, for an instruction that takes pairs
    int16_t factor[2];    // elements 0..15, elements 16..31
    float scale[2];       // the factors as floats
    float total;          // sum of factor * q over the block
    float centre[2];      // -32 * factor * (sum of q) of each half
};
static_assert(sizeof(ActivationBlock) == 64);

// A quantized row: its blocks, then D as a float, and up to the next 64 bytes nothing.
constexpr size_t kActivationBlock = 32;
constexpr size_t quantized_row_bytes(size_t width) {
    return width / kActivationBlock * sizeof(ActivationBlock) + 64;
}
// Largest factor. 16 products of 127 and -128 times it fit an int32.
constexpr int kMaxFactor = 8191;
// A row whose largest element is smaller is taken for zeros: its reciprocal is no float.
constexpr float kSmallestRow = 1e-30f;

}  // namespace tektra
