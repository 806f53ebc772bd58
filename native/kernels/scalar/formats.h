// What the formats of pack.cpp have in common. Each says three things: what the integers of 32
// elements are, how they are stored in a packed block, and where its scales go.
//
// One struct a format:
//   Source, Packed, kWidth
//   quant(source, e)             the unsigned integer of element e; or, for those that come in code
//   quants(source, sub, out)     words, of the 32 elements of a sub-block
//   scales(source, lane, packed)
//   put(quants, sub, packed)
//   value(packed, e, lane)
#pragma once

#include <cstring>

#include "../../core/half.h"
#include "fields.h"

namespace tektra::scalar {
namespace {

constexpr size_t kSub = 32;  // elements that are packed together

// Unsigned integers of 32 elements of all rows of a group: [element][row]
template <int L>
struct Quants {
    uint8_t at[kSub][L];
};

// Byte of `element` (0..31) and `lane` inside its register, and the register's number.
inline size_t byte_of(size_t element, size_t lane) {
    return 4 * lane + element % 4;
}
inline size_t register_of(size_t element) {
    return element / 4;
}

template <int L, int kBits>
void put_all(const Quants<L>& quants, Fields<L, kBits>& out) {
    std::memset(&out, 0, sizeof out);
    for (size_t e = 0; e < kSub; ++e) {
        for (size_t lane = 0; lane < L; ++lane) {
            put_field(out, register_of(e), byte_of(e, lane), quants.at[e][lane]);
        }
    }
}

template <int L, int kBits>
inline int get(const Fields<L, kBits>& fields, size_t e, size_t lane) {
    return get_field(fields, register_of(e), byte_of(e, lane));
}

inline int fifth_bit(const uint8_t* high, size_t e) {
    return high[e / 8] >> e % 8 & 1;
}

}  // namespace
}  // namespace tektra::scalar
