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

// The IQ types. A code word stands for eight magnitudes (IQ1, IQ2) or four (IQ3) of neighbouring
// elements; the codebooks are in kernels/scalar/codebooks.h. A set bit of signs is a minus. Where
// there are seven bits for eight signs, the number of minuses is even.

// value = d / 8 * (2 s + 1) * magnitude per 32 elements. Of each: four code words of 8 bits, then
// a uint32 (two integers here) with four times 7 signs and s on top.
struct BlockIQ2_XXS {
    half_t d;
    uint16_t q[8][4];
};
static_assert(sizeof(BlockIQ2_XXS) == 66);

// as IQ2_XXS with a nibble s per 16 elements; code words of 9 bits below 7 signs
struct BlockIQ2_XS {
    half_t d;
    uint16_t q[32];
    uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74);

// as IQ2_XS with all signs; two more bits of code word 4 i + j in bits 2 j of high[i]
struct BlockIQ2_S {
    half_t d;
    uint8_t q[32];
    uint8_t signs[32];
    uint8_t high[8];
    uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82);

// value = d / 4 * (2 s + 1) * magnitude per 32 elements; signs and s as in IQ2_XXS
struct BlockIQ3_XXS {
    half_t d;
    uint8_t q[64];
    uint8_t rest[8][4];
};
static_assert(sizeof(BlockIQ3_XXS) == 98);

// value = d * (2 s + 1) * magnitude per 32 elements; the ninth bit of code word 8 i + j in bit j of
// high[i]
struct BlockIQ3_S {
    half_t d;
    uint8_t q[64];
    uint8_t high[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
static_assert(sizeof(BlockIQ3_S) == 110);

// value = d * (2 s + 1) * (level + delta) per 32 elements, levels -1 .. 1, delta 1 / 8 or -1 / 8.
// `high` of 32 elements: three more bits of each code word, three of s, and a bit where delta is
// negative
struct BlockIQ1_S {
    half_t d;
    uint8_t q[32];
    uint16_t high[8];
};
static_assert(sizeof(BlockIQ1_S) == 50);

// as IQ1_S with s per 16 elements and delta per code word: nibbles of `high` are three more bits of
// the code word and the sign of delta. Twelve bits of scales[i] are s of four times 16 elements,
// the four on top the nibble i of d
struct BlockIQ1_M {
    uint8_t q[32];
    uint8_t high[16];
    uint16_t scales[4];
};
static_assert(sizeof(BlockIQ1_M) == 56);

// value = d * level(q), levels in packed_blocks.h; nibbles as in Q4_0
struct BlockIQ4_NL {
    half_t d;
    uint8_t q[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

// value = d * (scale - 32) * level(q) per 32 elements; low four bits of scale i in a nibble of
// low[i / 2], the other two in bits 2 i of `high`
struct BlockIQ4_XS {
    half_t d;
    uint16_t high;
    uint8_t low[4];
    uint8_t q[8][16];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// value = d * (digit - 1). A byte is a fraction of 256 whose first digits to the base 3 are
// elements i + 32 k of q5[i], 160 + i + 16 k of q5b[i], 240 + i + 4 k of q4[i], for k from 0
struct BlockTQ1_0 {
    uint8_t q5[32];
    uint8_t q5b[16];
    uint8_t q4[4];
    half_t d;
};
static_assert(sizeof(BlockTQ1_0) == 54);

// value = d * (q - 1); bits as in Q2_K
struct BlockTQ2_0 {
    uint8_t q[64];
    half_t d;
};
static_assert(sizeof(BlockTQ2_0) == 66);

// value = 2^(e - 128) * level(q), levels in packed_blocks.h; nibbles as in Q4_0
struct BlockMXFP4 {
    uint8_t e;
    uint8_t q[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// value = scale / 2 * level(q) per 16 elements, scales unsigned E4M3; nibbles of each 16 elements
// as in Q4_0
struct BlockNVFP4 {
    uint8_t scales[4];
    uint8_t q[4][8];
};
static_assert(sizeof(BlockNVFP4) == 36);

// value = d or, where bit e % 8 of q[e / 8] is not set, -d
struct BlockQ1_0 {
    half_t d;
    uint8_t q[16];
};
static_assert(sizeof(BlockQ1_0) == 18);

// value = d * (q - 1); four elements a byte, the first lowest
struct BlockQ2_0 {
    half_t d;
    uint8_t q[16];
};
static_assert(sizeof(BlockQ2_0) == 18);

}  // namespace tektra
