// The quantized blocks of ggml as they lie in a GGUF file, little-endian.
// Source: the GGUF specification and ggml's block definitions (type ids as in WeightType's table).
#pragma once

#include <cstdint>

namespace tektra {

using half_t = uint16_t;  // IEEE binary16 as bits

constexpr int kLegacyWidth = 32;  // elements in a block of Q4_0 .. Q8_0
constexpr int kSuperWidth = 256;  // elements in a super-block of the K types

// value = d * (q - 8); byte i holds elements i (low nibble) and i + 16 (high nibble)
struct BlockQ4_0 {
    half_t d;
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// value = d * q + m
struct BlockQ4_1 {
    half_t d;
    half_t m;
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// value = d * (q - 16); bit i of the little-endian `high` is the fifth bit of element i
struct BlockQ5_0 {
    half_t d;
    uint8_t high[4];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// value = d * q + m
struct BlockQ5_1 {
    half_t d;
    half_t m;
    uint8_t high[4];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// value = d * q
struct BlockQ8_0 {
    half_t d;
    int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// value = d * scale * q - dmin * min per 16 elements; scale in the low nibble, min in the high.
// Element e of 128-element half h: bits 2 * (e / 32) of q[32 * h + e % 32].
struct BlockQ2_K {
    uint8_t scales[16];
    uint8_t q[64];
    half_t d;
    half_t dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

// value = d * (scale - 32) * (q - 4) per 16 elements; low two bits as in Q2_K, the third bit of
// element e is bit e / 32 of high[e % 32]; 6-bit scales: low nibbles in bytes 0..7, rest in 8..11
struct BlockQ3_K {
    uint8_t high[32];
    uint8_t q[64];
    uint8_t scales[12];
    half_t d;
};
static_assert(sizeof(BlockQ3_K) == 110);

// value = d * scale * q - dmin * min per 32 elements; byte i of 64-element chunk c holds elements
// 64 c + i (low nibble) and 64 c + 32 + i (high nibble); 6-bit scales and mins share 12 bytes
struct BlockQ4_K {
    half_t d;
    half_t dmin;
    uint8_t scales[12];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// as Q4_K, with the fifth bit of element e in bit e / 32 of high[e % 32]
struct BlockQ5_K {
    half_t d;
    half_t dmin;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// value = d * scale * (q - 32) per 16 elements; in 128-element half h, with l = e % 32:
// low nibbles of elements l and l + 32 are those of low[64 h + l] and low[64 h + 32 + l], high
// nibbles hold elements l + 64 and l + 96; bits 2 * (e / 32) of high[32 h + l] are the upper two
struct BlockQ6_K {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    half_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

}  // namespace tektra
