// Single fields of packed_blocks.h, written and read: register `j` (0..7), byte `b`.
#pragma once

#include "tektra/packed_blocks.h"

namespace tektra::scalar {
namespace {

// Where a run of bits of a register's value lies.
struct FieldPart {
    int from;   // lowest bit of the value
    int count;  // bits
    int row;    // which r
    int shift;  // lowest bit in the byte
};

// The parts of register j: up to three, those that are not there have no bits.
template <int kBits>
inline void field_parts(size_t register_number, FieldPart (&parts)[3]) {
    const int j = static_cast<int>(register_number);
    parts[0] = parts[1] = parts[2] = {0, 0, 0, 0};
    if constexpr (kBits == 2) {
        parts[0] = {0, 2, j / 4, 2 * (j % 4)};
    } else if constexpr (kBits == 4) {
        parts[0] = {0, 4, j % 4, j < 4 ? 0 : 4};
    } else if constexpr (kBits == 3) {
        if (j < 6) {
            parts[0] = {0, 3, j / 2, 3 * (j % 2)};
        } else if (j == 6) {
            parts[0] = {0, 2, 0, 6};
            parts[1] = {2, 1, 1, 6};
        } else {
            parts[0] = {0, 1, 1, 7};
            parts[1] = {1, 2, 2, 6};
        }
    } else if constexpr (kBits == 5) {
        if (j < 5) {
            parts[0] = {0, 5, j, 0};
        } else if (j < 7) {
            parts[0] = {0, 3, 2 * (j - 5), 5};
            parts[1] = {3, 2, 2 * (j - 5) + 1, 5};
        } else {
            parts[0] = {0, 3, 4, 5};
            parts[1] = {3, 1, 1, 7};
            parts[2] = {4, 1, 3, 7};
        }
    } else {
        static_assert(kBits == 6);
        if (j < 6) {
            parts[0] = {0, 6, j, 0};
        } else {
            for (int i = 0; i < 3; ++i) parts[i] = {2 * i, 2, 3 * (j - 6) + i, 6};
        }
    }
}

template <int L, int kBits>
inline void put_field(Fields<L, kBits>& fields, size_t j, size_t b, int value) {
    FieldPart parts[3];
    field_parts<kBits>(j, parts);
    for (const FieldPart& p : parts) {
        const int bits = value >> p.from & ((1 << p.count) - 1);
        fields.r[p.row][b] = static_cast<uint8_t>(fields.r[p.row][b] | bits << p.shift);
    }
}

template <int L, int kBits>
inline int get_field(const Fields<L, kBits>& fields, size_t j, size_t b) {
    FieldPart parts[3];
    field_parts<kBits>(j, parts);
    int value = 0;
    for (const FieldPart& p : parts) {
        value |= (fields.r[p.row][b] >> p.shift & ((1 << p.count) - 1)) << p.from;
    }
    return value;
}

}  // namespace
}  // namespace tektra::scalar
