// Linear layers with float weights, with NEON.
#include "../shared/linear_float.h"

#include "../shared/vectors_neon.h"
#include "tables.h"

namespace tektra::neon {
namespace {

struct FloatVectors : VectorsNeon {
    static constexpr int kTile = 4;

    static inline Float load(const float* p) { return load_floats(p); }
    static inline Float load_half(const half_t* p) { return halves(p); }
    static inline Float load_bfloat(const uint16_t* p) {
        const uint16x8_t bits = vld1q_u16(p);
        return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(bits), 16))};
    }
    static inline void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
};

}  // namespace

void fill_linear_float(KernelTable& table) {
    fill_float<FloatVectors>(table);
}

}  // namespace tektra::neon
