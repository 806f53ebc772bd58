#include "kv_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace tektra {
namespace {

// Elements that are rotated together.
size_t rotated_together(size_t head_dim) {
    return head_dim & (~head_dim + 1);
}

// Written so that compilers make vectors of it: the two halves do not overlap.
void add_and_subtract(float* __restrict a, float* __restrict b, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const float x = a[i], y = b[i];
        a[i] = x + y;
        b[i] = x - y;
    }
}

void rotate(const float* from, size_t n, float* to) {
    std::memcpy(to, from, n * sizeof(float));
    const size_t together = rotated_together(n);
    size_t half = 1;
    if (together >= 4) {  // the first two steps at once
        for (size_t at = 0; at < n; at += 4) {
            const float a = to[at] + to[at + 1], b = to[at] - to[at + 1];
            const float c = to[at + 2] + to[at + 3], d = to[at + 2] - to[at + 3];
            to[at] = a + c;
            to[at + 1] = b + d;
            to[at + 2] = a - c;
            to[at + 3] = b - d;
        }
        half = 4;
    }
    for (; half < together; half *= 2) {
        for (size_t at = 0; at < n; at += 2 * half) add_and_subtract(to + at, to + at + half, half);
    }
}

// What the largest element is of `codes`, and what elements are multiplied by. Where one is not a
// number the scale is none either, and all codes are zero.
struct Scale {
    float scale, inverse;

    Scale(const float* x, size_t n, float codes) {
        // sizes of floats are in the order of their bits, those of infinity and NaN last
        uint32_t largest_bits = 0;
        for (size_t i = 0; i < n; ++i) {
            largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
        }
        const auto largest = std::bit_cast<float>(largest_bits);
        const bool finite = largest_bits < 0x7f800000u;
        scale = finite ? largest / codes : std::numeric_limits<float>::quiet_NaN();
        // not where the inverse would overflow
        inverse = finite && largest > 1e-34f ? codes / largest : 0.0f;
    }

    // The nearest whole numbers, ties to even.
    template <class Int>
    void codes(const float* x, size_t n, Int* out) const {
        if (inverse == 0.0f) {
            std::fill_n(out, n, Int{0});
            return;
        }
        constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
        for (size_t i = 0; i < n; ++i) {
            const auto whole = std::bit_cast<int32_t>(x[i] * inverse + kShift);
            out[i] = static_cast<Int>(whole - std::bit_cast<int32_t>(kShift));
        }
    }
};

void write_f16(const RowKernels& rows, const KvShape& shape, size_t place, const float* key,
               const float* value, uint8_t* head) {
    constexpr size_t kPart = 64;
    half_t part[kPart];
    auto* const keys = reinterpret_cast<half_t*>(head) + place;
    for (size_t d = 0; d < shape.head_dim; d += kPart) {
        const size_t n = std::min(kPart, shape.head_dim - d);
        rows.to_half(key + d, n, part);
        for (size_t i = 0; i < n; ++i) keys[(d + i) * kKvBlock] = part[i];
    }
    auto* const values = reinterpret_cast<half_t*>(head + shape.key_bytes());
    rows.to_half(value, shape.value_dim, values + place * shape.value_dim);
}

void write_f32(const KvShape& shape, size_t place, const float* key, const float* value,
               uint8_t* head) {
    auto* const keys = reinterpret_cast<float*>(head) + place;
    for (size_t d = 0; d < shape.head_dim; ++d) keys[d * kKvBlock] = key[d];
    auto* const values = reinterpret_cast<float*>(head + shape.key_bytes());
    std::memcpy(values + place * shape.value_dim, value, shape.value_dim * sizeof(float));
}

void write_int8(const KvShape& shape, size_t place, const float* key, const float* value,
                uint8_t* head) {
    float rotated[kMaxInt8Head];
    int8_t codes[kMaxInt8Head];
    rotate(key, shape.head_dim, rotated);
    const Scale of_key(rotated, shape.head_dim, kLargestCode);
    of_key.codes(rotated, shape.head_dim, codes);
    const size_t key_codes = (shape.head_dim + 1) / 2 * 2 * kKvBlock;
    auto* const keys = reinterpret_cast<int8_t*>(head) + 2 * place;
    for (size_t d = 0; d < shape.head_dim; ++d) keys[d / 2 * 2 * kKvBlock + d % 2] = codes[d];
    reinterpret_cast<float*>(head + key_codes)[place] = of_key.scale;

    const Scale of_value(value, shape.value_dim, kLargestCode);
    uint8_t* const block = head + shape.key_bytes();
    auto* const values =
        reinterpret_cast<int8_t*>(block) + place / 2 * 2 * shape.value_dim + place % 2;
    for (size_t at = 0; at < shape.value_dim; at += kMaxInt8Head) {
        const size_t n = std::min(kMaxInt8Head, shape.value_dim - at);
        of_value.codes(value + at, n, codes);
        for (size_t d = 0; d < n; ++d) values[2 * (at + d)] = codes[d];
    }
    reinterpret_cast<float*>(block + kKvBlock * shape.value_dim)[place] = of_value.scale;
}

}  // namespace

void write_kv(const RowKernels& rows, const KvShape& shape, size_t place, const float* key,
              const float* value, uint8_t* head) {
    if (shape.type == KvType::kInt8) {
        write_int8(shape, place, key, value, head);
    } else if (shape.type == KvType::kF32) {
        write_f32(shape, place, key, value, head);
    } else {
        write_f16(rows, shape, place, key, value, head);
    }
}

void quantize_query(const float* query, size_t head_dim, float* out) {
    float rotated[kMaxInt8Head];
    rotate(query, head_dim, rotated);
    const Scale scale(rotated, head_dim, kQueryCode);
    const size_t num_pairs = (head_dim + 1) / 2;
    int16_t codes[kMaxInt8Head + 1];
    codes[2 * num_pairs - 1] = 0;  // the last of a pair
    scale.codes(rotated, head_dim, codes);
    std::memcpy(out, codes, 2 * num_pairs * sizeof(int16_t));
    out[num_pairs] = scale.scale / static_cast<float>(rotated_together(head_dim));
}

}  // namespace tektra
