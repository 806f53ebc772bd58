// From the number of an activation function to its loop over a row, for any set of vector
// instructions. Internal linkage: each set compiles a copy of its own.
//
// Loops has gated<kFunction>(gate, up, n, out): out = function(gate) * up, or function(gate) where
// `up` is null.
//
// GELU with the error function is x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, with erfc(z) =
// p(t) exp(-z^2) and t = 1 / (1 + 0.3275911 z) to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
#pragma once

#include "tektra/kernel_table.h"

namespace tektra {
namespace {

[[maybe_unused]] constexpr float kErfcSlope = 0.3275911f;
[[maybe_unused]] constexpr float kErfc[] = {0.254829592f, -0.284496736f, 1.421413741f,
                                            -1.453152027f, 1.061405429f};

template <class Loops>
void gated_by_number(const float* gate, const float* up, size_t n, int function, float* out) {
    switch (function) {
        case kSilu:
            return Loops::template gated<kSilu>(gate, up, n, out);
        case kGelu:
            return Loops::template gated<kGelu>(gate, up, n, out);
        case kGeluTanh:
            return Loops::template gated<kGeluTanh>(gate, up, n, out);
        case kRelu:
            return Loops::template gated<kRelu>(gate, up, n, out);
        case kSigmoid:
            return Loops::template gated<kSigmoid>(gate, up, n, out);
        default:
            return Loops::template gated<kTanh>(gate, up, n, out);
    }
}

template <class Loops>
void activate_by_number(const float* x, size_t n, int function, float* out) {
    gated_by_number<Loops>(x, nullptr, n, function, out);
}

template <class Loops>
void fill_activations(RowKernels& rows) {
    rows.activate = activate_by_number<Loops>;
    rows.gated = gated_by_number<Loops>;
}

}  // namespace
}  // namespace tektra
