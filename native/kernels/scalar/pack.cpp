// From the blocks of the file to groups of interleaved rows, and back to floats: the loops round
// the formats (formats_*.h).
#include "pack.h"

#include <cstring>

#include "formats_iq.h"
#include "formats_k.h"
#include "formats_legacy.h"
#include "formats_small.h"

namespace tektra::scalar {
namespace {

template <class F>
inline void quants_of(const typename F::Source& source, size_t sub, uint8_t* out) {
    if constexpr (requires { F::quants(source, sub, out); }) {
        F::quants(source, sub, out);
    } else {
        for (size_t e = 0; e < kSub; ++e) {
            out[e] = static_cast<uint8_t>(F::quant(source, sub * kSub + e));
        }
    }
}

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
                uint8_t row[kSub];
                quants_of<F>(source[lane], sub, row);
                for (size_t e = 0; e < kSub; ++e) quants.at[e][lane] = row[e];
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
    quantized<IQ2_XXS<L>, L>(entry(WeightType::IQ2_XXS));
    quantized<IQ2_XS<L>, L>(entry(WeightType::IQ2_XS));
    quantized<IQ2_S<L>, L>(entry(WeightType::IQ2_S));
    quantized<IQ3_XXS<L>, L>(entry(WeightType::IQ3_XXS));
    quantized<IQ3_S<L>, L>(entry(WeightType::IQ3_S));
    quantized<IQ1_S<L>, L>(entry(WeightType::IQ1_S));
    quantized<IQ1_M<L>, L>(entry(WeightType::IQ1_M));
    quantized<IQ4_NL<L>, L>(entry(WeightType::IQ4_NL));
    quantized<IQ4_XS<L>, L>(entry(WeightType::IQ4_XS));
    quantized<TQ1_0<L>, L>(entry(WeightType::TQ1_0));
    quantized<TQ2_0<L>, L>(entry(WeightType::TQ2_0));
    quantized<MXFP4<L>, L>(entry(WeightType::MXFP4));
    quantized<NVFP4<L>, L>(entry(WeightType::NVFP4));
    quantized<Q1_0<L>, L>(entry(WeightType::Q1_0));
    quantized<Q2_0<L>, L>(entry(WeightType::Q2_0));
}

template void fill_packing<8>(KernelTable& table);
template void fill_packing<16>(KernelTable& table);

}  // namespace tektra::scalar
