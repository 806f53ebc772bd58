// Formats with one scale, and maybe a minimum, for 32 elements.
#pragma once

#include "formats.h"

namespace tektra::scalar {
namespace {

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

}  // namespace
}  // namespace tektra::scalar
