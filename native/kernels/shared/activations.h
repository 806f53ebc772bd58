// From the number of an activation function to its loop over a row, for any set of vector
// instructions. Internal linkage: each set compiles a copy of its own.
//
// Loops has gated<kFunction>(gate, up, n, out): out = function(gate) * up, or function(gate) where
// `up` is null. GELU with the error function has no loop of vectors: few models have it.
#pragma once

#include <cmath>

#include "tektra/kernel_table.h"

namespace tektra {
namespace {

template <class Loops>
void gated_by_number(const float* gate, const float* up, size_t n, int function, float* out) {
    switch (function) {
        case kSilu:
            return Loops::template gated<kSilu>(gate, up, n, out);
        case kGelu:
            for (size_t i = 0; i < n; ++i) {
                const float x = gate[i];
                const float value = 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752440f));
                out[i] = up != nullptr ? value * up[i] : value;
            }
            return;
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
