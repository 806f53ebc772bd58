// Packed weights: eight neighbouring rows of a matrix interleaved, so that one vector holds the
// same thing of eight rows and scales are vectors.
//
// A matrix is a sequence of groups of eight rows (the last one padded with zero scales); a group
// is the sequence of its blocks along the width. Inside 32 elements of the width, "register" j
// (0..7) stands for elements 4 j .. 4 j + 3 of all eight rows, in bytes 4 * row + element % 4:
// what one unsigned x signed byte multiply-add of AVX2 takes, with the four activations broadcast.
#pragma once

#include <cstdint>

#include "tektra/quant_blocks.h"

namespace tektra {

constexpr int kLanes = 8;  // rows in a group

// Nibbles of 32 elements: byte b of q[32 * j + b] holds register j (low) and j + 4 (high), j < 4.
using Nibbles = uint8_t[128];
// One more bit of 32 elements: bit j of byte b belongs to byte b of register j.
using Bits = uint8_t[32];
// Two more bits of 32 elements: bits 2 s of byte 32 * h + b belong to byte b of register 4 h + s.
using BitPairs = uint8_t[64];

struct PackedQ4_0 {
    half_t d[kLanes];
    Nibbles q;
};
static_assert(sizeof(PackedQ4_0) == kLanes * sizeof(BlockQ4_0));

struct PackedQ4_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Nibbles q;
};
static_assert(sizeof(PackedQ4_1) == kLanes * sizeof(BlockQ4_1));

struct PackedQ5_0 {
    half_t d[kLanes];
    Bits high;
    Nibbles q;
};
static_assert(sizeof(PackedQ5_0) == kLanes * sizeof(BlockQ5_0));

struct PackedQ5_1 {
    half_t d[kLanes];
    half_t m[kLanes];
    Bits high;
    Nibbles q;
};
static_assert(sizeof(PackedQ5_1) == kLanes * sizeof(BlockQ5_1));

struct PackedQ8_0 {
    half_t d[kLanes];
    int8_t q[8][32];  // [register][byte]
};
static_assert(sizeof(PackedQ8_0) == kLanes * sizeof(BlockQ8_0));

// The K types keep their integer scales: a byte each, so that they widen with one instruction.
struct PackedQ2_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[16][kLanes];
    uint8_t min[16][kLanes];
    BitPairs q[8];
};
static_assert(sizeof(PackedQ2_K) == 800);

struct PackedQ3_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    BitPairs q[8];
    Bits high[8];
};
static_assert(sizeof(PackedQ3_K) == 912);

struct PackedQ4_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Nibbles q[8];
};
static_assert(sizeof(PackedQ4_K) == 1184);

struct PackedQ5_K {
    half_t d[kLanes];
    half_t dmin[kLanes];
    uint8_t scale[8][kLanes];
    uint8_t min[8][kLanes];
    Nibbles q[8];
    Bits high[8];
};
static_assert(sizeof(PackedQ5_K) == 1440);

struct PackedQ6_K {
    half_t d[kLanes];
    int8_t scale[16][kLanes];
    Nibbles q[8];
    BitPairs high[8];
};
static_assert(sizeof(PackedQ6_K) == 1680);

// Float weights: element k of eight rows side by side.
struct PackedF32 {
    float w[kLanes];
};
struct PackedF16 {
    half_t w[kLanes];
};
struct PackedBF16 {
    uint16_t w[kLanes];
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
