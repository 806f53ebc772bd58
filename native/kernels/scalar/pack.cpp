// From the blocks of the file to groups of interleaved rows, and back to floats.
// Each format says three things: what the integers of 32 elements are, how they are stored in a
// packed block, and where its scales go.
#include "pack.h"

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

// Six-bit scale and min of sub-block s (0..7) of Q4_K and Q5_K.
inline void scale_min_k4(const uint8_t* packed, size_t s, uint8_t& scale, uint8_t& min) {
    if (s < 4) {
        scale = packed[s] & 63;
        min = packed[s + 4] & 63;
    } else {
        scale = static_cast<uint8_t>((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
        min = static_cast<uint8_t>((packed[s + 4] >> 4) | (packed[s] >> 6) << 4);
    }
}

inline int fifth_bit(const uint8_t* high, size_t e) {
    return high[e / 8] >> e % 8 & 1;
}

// One struct a format: Source and Packed blocks, `quant(source, e)` = the unsigned integer of
// element e, `scales(source, lane, packed)`, `put(quants, sub, packed)`, `value(packed, e, lane)`.

template <int L>
struct Q4_0 {
    using Source = BlockQ4_0;
    using Packed = PackedQ4_0<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) { return s.q[e % 16] >> (e < 16 ? 0 : 4) & 15; }
    static void scales(const Source& s, size_t lane, Packed& p) { p.d[lane] = s.d; }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        return half_to_float(p.d[lane]) * static_cast<float>(get(p.q, e, lane) - 8);
    }
};

template <int L>
struct Q4_1 {
    using Source = BlockQ4_1;
    using Packed = PackedQ4_1<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) { return s.q[e % 16] >> (e < 16 ? 0 : 4) & 15; }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.m[lane] = s.m;
    }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        return half_to_float(p.d[lane]) * static_cast<float>(get(p.q, e, lane)) +
               half_to_float(p.m[lane]);
    }
};

template <int L>
struct Q5_0 {
    using Source = BlockQ5_0;
    using Packed = PackedQ5_0<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) {
        return (s.q[e % 16] >> (e < 16 ? 0 : 4) & 15) | fifth_bit(s.high, e) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) { p.d[lane] = s.d; }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int q = get(p.q, e, lane);
        return half_to_float(p.d[lane]) * static_cast<float>(q - 16);
    }
};

template <int L>
struct Q5_1 {
    using Source = BlockQ5_1;
    using Packed = PackedQ5_1<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) {
        return (s.q[e % 16] >> (e < 16 ? 0 : 4) & 15) | fifth_bit(s.high, e) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.m[lane] = s.m;
    }
    static void put(const Quants<L>& q, size_t, Packed& p) { put_all(q, p.q); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const int q = get(p.q, e, lane);
        return half_to_float(p.d[lane]) * static_cast<float>(q) + half_to_float(p.m[lane]);
    }
};

template <int L>
struct Q8_0 {
    using Source = BlockQ8_0;
    using Packed = PackedQ8_0<L>;
    static constexpr size_t kWidth = kLegacyWidth;
    static int quant(const Source& s, size_t e) { return static_cast<uint8_t>(s.q[e]); }
    static void scales(const Source& s, size_t lane, Packed& p) { p.d[lane] = s.d; }
    static void put(const Quants<L>& q, size_t, Packed& p) {
        for (size_t e = 0; e < kSub; ++e) {
            for (size_t lane = 0; lane < L; ++lane) {
                p.q[register_of(e)][byte_of(e, lane)] = static_cast<int8_t>(q.at[e][lane]);
            }
        }
    }
    static float value(const Packed& p, size_t e, size_t lane) {
        return half_to_float(p.d[lane]) * static_cast<float>(p.q[register_of(e)][byte_of(e, lane)]);
    }
};

inline int two_bits(const uint8_t* q, size_t e) {
    return q[32 * (e / 128) + e % 32] >> 2 * (e % 128 / 32) & 3;
}

template <int L>
struct Q2_K {
    using Source = BlockQ2_K;
    using Packed = PackedQ2_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) { return two_bits(s.q, e); }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 16; ++i) {
            p.scale[i][lane] = s.scales[i] & 15;
            p.min[i][lane] = s.scales[i] >> 4;
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[e / 16][lane]);
        return d * static_cast<float>(get(p.q[e / kSub], e % kSub, lane)) - m;
    }
};

template <int L>
struct Q3_K {
    using Source = BlockQ3_K;
    using Packed = PackedQ3_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        return two_bits(s.q, e) | (s.high[e % 32] >> e / 32 & 1) << 2;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) {
            const int low = i < 8 ? s.scales[i] & 15 : s.scales[i - 8] >> 4;
            const int high = s.scales[8 + i % 4] >> 2 * (i / 4) & 3;
            p.scale[i][lane] = static_cast<int8_t>((low | high << 4) - 32);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        return d * static_cast<float>(q - 4);
    }
};

inline int k_nibble(const uint8_t* q, size_t e) {
    return q[32 * (e / 64) + e % 32] >> (e % 64 < 32 ? 0 : 4) & 15;
}

template <int L>
struct Q4_K {
    using Source = BlockQ4_K;
    using Packed = PackedQ4_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) { return k_nibble(s.q, e); }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 8; ++i) {
            scale_min_k4(s.scales, i, p.scale[i][lane], p.min[i][lane]);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[sub][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[sub][lane]);
        return d * static_cast<float>(get(p.q[sub], e % kSub, lane)) - m;
    }
};

template <int L>
struct Q5_K {
    using Source = BlockQ5_K;
    using Packed = PackedQ5_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        return k_nibble(s.q, e) | (s.high[e % 32] >> e / 32 & 1) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        p.dmin[lane] = s.dmin;
        for (size_t i = 0; i < 8; ++i) {
            scale_min_k4(s.scales, i, p.scale[i][lane], p.min[i][lane]);
        }
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[sub][lane]);
        const float m = half_to_float(p.dmin[lane]) * static_cast<float>(p.min[sub][lane]);
        return d * static_cast<float>(q) - m;
    }
};

template <int L>
struct Q6_K {
    using Source = BlockQ6_K;
    using Packed = PackedQ6_K<L>;
    static constexpr size_t kWidth = kSuperWidth;
    static int quant(const Source& s, size_t e) {
        const size_t half = e / 128, quarter = e % 128 / 32, l = e % 32;
        const int low = s.low[64 * half + 32 * (quarter % 2) + l] >> (quarter < 2 ? 0 : 4) & 15;
        return low | (s.high[32 * half + l] >> 2 * quarter & 3) << 4;
    }
    static void scales(const Source& s, size_t lane, Packed& p) {
        p.d[lane] = s.d;
        for (size_t i = 0; i < 16; ++i) p.scale[i][lane] = s.scales[i];
    }
    static void put(const Quants<L>& q, size_t sub, Packed& p) { put_all(q, p.q[sub]); }
    static float value(const Packed& p, size_t e, size_t lane) {
        const size_t sub = e / kSub;
        const int q = get(p.q[sub], e % kSub, lane);
        const float d = half_to_float(p.d[lane]) * static_cast<float>(p.scale[e / 16][lane]);
        return d * static_cast<float>(q - 32);
    }
};

template <class F, int L>
void pack(const uint8_t* rows, size_t num_rows, size_t row_bytes, size_t width, uint8_t* group) {
    const size_t blocks = width / F::kWidth;
    for (size_t b = 0; b < blocks; ++b) {
        typename F::Packed packed;
        std::memset(&packed, 0, sizeof packed);
        typename F::Source source[L];
        std::memset(source, 0, sizeof source);
        for (size_t lane = 0; lane < num_rows; ++lane) {
            // rows of a file have no alignment
            std::memcpy(&source[lane], rows + lane * row_bytes + b * sizeof(typename F::Source),
                        sizeof(typename F::Source));
            F::scales(source[lane], lane, packed);
        }
        for (size_t sub = 0; sub < F::kWidth / kSub; ++sub) {
            Quants<L> quants;
            for (size_t lane = 0; lane < L; ++lane) {
                for (size_t e = 0; e < kSub; ++e) {
                    quants.at[e][lane] =
                        static_cast<uint8_t>(F::quant(source[lane], sub * kSub + e));
                }
            }
            F::put(quants, sub, packed);
        }
        std::memcpy(group + b * sizeof packed, &packed, sizeof packed);
    }
}

template <class F>
void unpack_row(const uint8_t* group, size_t lane, size_t width, float* out) {
    for (size_t b = 0; b < width / F::kWidth; ++b) {
        typename F::Packed packed;
        std::memcpy(&packed, group + b * sizeof packed, sizeof packed);
        for (size_t e = 0; e < F::kWidth; ++e) out[b * F::kWidth + e] = F::value(packed, e, lane);
    }
}

template <class Element, int L>
void pack_float(const uint8_t* rows, size_t num_rows, size_t row_bytes, size_t width,
                uint8_t* group) {
    for (size_t k = 0; k < width; ++k) {
        PackedFloat<L, Element> packed{};
        for (size_t lane = 0; lane < num_rows; ++lane) {
            std::memcpy(&packed.w[lane], rows + lane * row_bytes + k * sizeof(Element),
                        sizeof(Element));
        }
        std::memcpy(group + k * sizeof packed, &packed, sizeof packed);
    }
}

template <class Element, int L, float (*to_float)(Element)>
void unpack_float_row(const uint8_t* group, size_t lane, size_t width, float* out) {
    for (size_t k = 0; k < width; ++k) {
        Element element;
        std::memcpy(&element, group + (k * L + lane) * sizeof element, sizeof element);
        out[k] = to_float(element);
    }
}

float same(float value) {
    return value;
}
float from_half(half_t value) {
    return half_to_float(value);
}
float from_bfloat(uint16_t value) {
    return bfloat_to_float(value);
}

template <class F, int L>
void quantized(LinearKernel& kernel) {
    kernel.lanes = L;
    kernel.block_width = F::kWidth;
    kernel.block_bytes = sizeof(typename F::Packed);
    kernel.source_bytes = sizeof(typename F::Source);
    kernel.quantized_input = true;
    kernel.pack = pack<F, L>;
    kernel.unpack_row = unpack_row<F>;
}

template <class Element, int L, float (*to_float)(Element)>
void floating(LinearKernel& kernel) {
    kernel.lanes = L;
    kernel.block_width = 1;
    kernel.block_bytes = sizeof(PackedFloat<L, Element>);
    kernel.source_bytes = sizeof(Element);
    kernel.quantized_input = false;
    kernel.pack = pack_float<Element, L>;
    kernel.unpack_row = unpack_float_row<Element, L, to_float>;
}

}  // namespace

template <int L>
void fill_packing(KernelTable& table) {
    auto entry = [&](WeightType type) -> LinearKernel& {
        return table.linear[static_cast<int>(type)];
    };
    floating<float, L, same>(entry(WeightType::F32));
    floating<half_t, L, from_half>(entry(WeightType::F16));
    floating<uint16_t, L, from_bfloat>(entry(WeightType::BF16));
    quantized<Q4_0<L>, L>(entry(WeightType::Q4_0));
    quantized<Q4_1<L>, L>(entry(WeightType::Q4_1));
    quantized<Q5_0<L>, L>(entry(WeightType::Q5_0));
    quantized<Q5_1<L>, L>(entry(WeightType::Q5_1));
    quantized<Q8_0<L>, L>(entry(WeightType::Q8_0));
    quantized<Q2_K<L>, L>(entry(WeightType::Q2_K));
    quantized<Q3_K<L>, L>(entry(WeightType::Q3_K));
    quantized<Q4_K<L>, L>(entry(WeightType::Q4_K));
    quantized<Q5_K<L>, L>(entry(WeightType::Q5_K));
    quantized<Q6_K<L>, L>(entry(WeightType::Q6_K));
}

template void fill_packing<8>(KernelTable& table);
template void fill_packing<16>(KernelTable& table);

}  // namespace tektra::scalar
