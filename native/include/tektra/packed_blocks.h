// Packed weights: the neighbouring rows of a matrix interleaved, as many as a vector of the
// instruction set holds floats (its lanes: 8 or 16), so that one vector holds the same thing of all
// of them and scales are vectors.
//
// A matrix is a sequence of groups of so many rows (the last one padded with zero scales); a group
// is the sequence of its blocks along the width. Inside 32 elements of the width, "register" j
// (0..7) stands for elements 4 j .. 4 j + 3 of all rows, in bytes 4 * row + element % 4: what one
// unsigned x signed byte multiply-add takes, with the four activations broadcast.
#pragma once

#include <cstdint>

#include "tektra/quant_blocks.h"

namespace tektra {

// Nibbles of 32 elements: byte b of q[j] holds register j (low) and register j + 4 (high), j < 4.
template <int kLanes>
using Nibbles = uint8_t[4][4 * kLanes];
// One more bit of 32 elements: bit j of byte b belongs to byte b of register j.
template <int kLanes>
using Bits = uint8_t[4 * kLanes];
// Two more bits of 32 elements: bits 2 s of byte b of q[h] belong to byte b of register 4 h + s.
template <int kLanes>
using BitPairs = uint8_t[2][4 * kLanes];

template <int kLanes>
struct PackedQ4_0 {
    half_t d[kLanes];
    Nibbles<kLanes> q;
};
static_assert(sizeof(PackedQ4_0<8>) == 8 * sizeof(BlockQ4_0));

template <int kLanes>
struct PackedQ4_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Nibbles<kLanes> q;
};
static_assert(sizeof(PackedQ4_1<8>) == 8 * sizeof(BlockQ4_1));

template <int kLanes>
struct PackedQ5_0 {
    half_t d[kLanes];
    Bits<kLanes> high;
    Nibbles<kLanes> q;
};
static_assert(sizeof(PackedQ5_0<8>) == 8 * sizeof(BlockQ5_0));

template <int kLanes>
struct PackedQ5_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Bits<kLanes> high;
    Nibbles<kLanes> q;
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
    BitPairs<kLanes> q[8];
};
static_assert(sizeof(PackedQ2_K<8>) == 800);

template <int kLanes>
struct PackedQ3_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    BitPairs<kLanes> q[8];
    Bits<kLanes> high[8];
};
static_assert(sizeof(PackedQ3_K<8>) == 912);

template <int kLanes>
struct PackedQ4_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Nibbles<kLanes> q[8];
};
static_assert(sizeof(PackedQ4_K<8>) == 1184);

template <int kLanes>
struct PackedQ5_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Nibbles<kLanes> q[8];
    Bits<kLanes> high[8];
};
static_assert(sizeof(PackedQ5_K<8>) == 1440);

template <int kLanes>
struct PackedQ6_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    Nibbles<kLanes> q[8];
    BitPairs<kLanes> high[8];
};
static_assert(sizeof(PackedQ6_K<8>) == 1680);

// Float weights: element k of all rows side by side. Element is float, half_t or uint16_t.
template <int kLanes, class Element>
struct PackedFloat {
    Element w[kLanes];
};

// Activations quantized to int8: a row is `width` bytes, then one of these per 32 elements.
// x ~ scale * q, with a scale for each half of the block: that costs little beside the products and
// halves the divergence from float activations (docs/log.md). The sums are of scale * q, which is
// what multiplies the mins of the weights, so that rounding errors of q meet centred weights.
struct ActivationScale {
    float scale[2];  // elements 0..15, elements 16..31
    float sum[2];
    float total;  // sum[0] + sum[1]
};
static_assert(sizeof(ActivationScale) == 20);

}  // namespace tektra
