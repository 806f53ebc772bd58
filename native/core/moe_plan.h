// The numbers of a mixture of experts, and where its intermediates lie in the work buffer that the
// arena has for it. A slot is one row at one of its experts; slots lie expert by expert.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tektra {

// What a row is sent to.
struct Choice {
    int32_t expert;
    float share;   // weight of its answer
    int32_t slot;  // where its answer is
};
static_assert(sizeof(Choice) == 12);

// How an op of code kMoe lists its operands.
struct MoeOperands {
    enum In { kGateInput, kUpInput, kLogits };
    enum Out { kResult, kWork };
    enum Weight { kGate, kUp, kDown, kGateBias, kUpBias, kDownBias, kChoiceBias };
    enum Int { kTopK, kSigmoid, kNormalize, kFunction, kTerms };
    enum Float { kScale, kAlpha, kLimit };
};

// Sizes in bytes, each a multiple of 64; those of rows per slot. Once gate and up are multiplied,
// the answers lie where these and the gathered inputs were.
struct MoeNumbers {
    size_t top_k, num_experts, width, inner, terms;
    size_t choices;               // of a row
    size_t hidden;                // what goes into down, quantized or not
    size_t floats;                // of gate, and of up
    size_t gate_input, up_input;  // gathered; the latter 0 where the two read the same
    size_t answer;

    // Of a row of the step; as `moe_row_bytes` in backends/cpu_program.py.
    size_t row_bytes() const {
        return choices + top_k * (hidden + std::max(2 * floats + gate_input + up_input, answer));
    }
    size_t hidden_at(size_t rows) const { return rows * choices; }
    size_t gate_at(size_t rows) const { return hidden_at(rows) + rows * top_k * hidden; }
    size_t up_at(size_t rows) const { return gate_at(rows) + rows * top_k * floats; }
    size_t gate_input_at(size_t rows) const { return up_at(rows) + rows * top_k * floats; }
    size_t up_input_at(size_t rows) const {
        return gate_input_at(rows) + rows * top_k * gate_input;
    }
    size_t answer_at(size_t rows) const { return gate_at(rows); }
};

}  // namespace tektra
