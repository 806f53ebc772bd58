// Mixtures of experts: each row is sent to the experts that its router logits choose, the rows of
// an expert are computed together, and only the weights of experts that have rows are read.
//
// What a row gets does not depend on who shares its experts: a linear computes each row by itself,
// and the answers are added in the order of the row's own choice, best first.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "moe_plan.h"
#include "tektra/program.h"

namespace tektra {
namespace {

using O = MoeOperands;

// Tasks a thread, so that experts with many and few rows even out.
constexpr size_t kTasksPerThread = 8;
// What reading and unpacking the weights costs, in rows.
constexpr size_t kWeightRows = 4;

size_t round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// The `k` experts of the highest ranking, best first, of equal ones the first first. What is not a
// number is never better than another, so that there are always k different ones.
void choose(const float* ranking, size_t num_experts, size_t k, Choice* choices) {
    size_t n = 0;
    for (size_t e = 0; e < num_experts; ++e) {
        if (n == k && !(ranking[e] > ranking[choices[k - 1].expert])) continue;
        size_t at = n < k ? n++ : k - 1;
        for (; at > 0 && ranking[e] > ranking[choices[at - 1].expert]; --at) {
            choices[at] = choices[at - 1];
        }
        choices[at].expert = static_cast<int32_t>(e);
    }
}

float sigmoid(float x) {
    return 1.0f / (1.0f + std::exp(-x));
}

struct Routing {
    size_t num_experts, top_k;
    bool sigmoid, normalize;
    float scale;
    const float* choice_bias;
};

// `scores` has room for two numbers an expert.
void route(const float* logits, const Routing& r, float* scores, Choice* choices) {
    const size_t n = r.num_experts;
    if (r.sigmoid) {
        for (size_t e = 0; e < n; ++e) scores[e] = sigmoid(logits[e]);
    } else if (!r.normalize || r.choice_bias != nullptr) {
        const float top = *std::max_element(logits, logits + n);
        float total = 0.0f;
        for (size_t e = 0; e < n; ++e) total += scores[e] = std::exp(logits[e] - top);
        for (size_t e = 0; e < n; ++e) scores[e] /= total;
    }
    if (r.choice_bias != nullptr) {
        float* ranking = scores + n;
        for (size_t e = 0; e < n; ++e) ranking[e] = scores[e] + r.choice_bias[e];
        choose(ranking, n, r.top_k, choices);
    } else {
        choose(logits, n, r.top_k, choices);
    }
    float total = 0.0f;
    const float top = logits[choices[0].expert];
    for (size_t i = 0; i < r.top_k; ++i) {
        Choice& c = choices[i];
        // normalized, the sum over all experts drops out
        const bool softmax_of_chosen = !r.sigmoid && r.normalize && r.choice_bias == nullptr;
        c.share = softmax_of_chosen ? std::exp(logits[c.expert] - top) : scores[c.expert];
        total += c.share;
    }
    for (size_t i = 0; i < r.top_k; ++i) {
        if (r.normalize) choices[i].share /= total;
        choices[i].share *= r.scale;
    }
}

// Makes a plain gated SiLU of the clamped product: silu(alpha * gate) * ((up + 1) / alpha).
void clamp(float* gate, float* up, size_t n, float alpha, float limit) {
    for (size_t i = 0; i < n; ++i) {
        gate[i] = alpha * std::min(gate[i], limit);
        up[i] = (std::min(std::max(up[i], -limit), limit) + 1.0f) / alpha;
    }
}

void add_scaled(const float* x, float factor, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] += factor * x[i];
}

}  // namespace

MoeNumbers Program::moe_numbers(const Op& op) const {
    const Matrix& gate = matrices_[op.weights[O::kGate]];
    const Matrix& down = matrices_[op.weights[O::kDown]];
    MoeNumbers m{};
    m.top_k = static_cast<size_t>(op.ints[O::kTopK]);
    m.num_experts = gate.count;
    m.width = gate.width;
    m.inner = gate.rows;
    m.terms = static_cast<size_t>(op.ints[O::kTerms]);
    m.choices = round_up(m.top_k * sizeof(Choice));
    m.floats = round_up(m.inner * sizeof(float));
    m.hidden = kernel_of(down).quantized_input ? m.terms * quantized_row_bytes(m.inner) : m.floats;
    m.gate_input = buffers_[op.in[O::kGateInput]].stride;
    m.up_input =
        op.in[O::kUpInput] == op.in[O::kGateInput] ? 0 : buffers_[op.in[O::kUpInput]].stride;
    m.answer = round_up(m.width * sizeof(float));
    return m;
}

void Program::check_moe(const Op& op) const {
    auto check = [](bool condition, const char* what) {
        if (!condition) throw std::invalid_argument(std::string("moe: ").append(what));
    };
    for (int i = O::kGate; i <= O::kDown; ++i) {
        check(op.weights[i] >= 0 && static_cast<size_t>(op.weights[i]) < matrices_.size(),
              "no such matrix");
    }
    const Matrix& gate = matrices_[op.weights[O::kGate]];
    const Matrix& up = matrices_[op.weights[O::kUp]];
    const Matrix& down = matrices_[op.weights[O::kDown]];
    check(up.count == gate.count && down.count == gate.count && up.rows == gate.rows &&
              up.width == gate.width && down.rows == gate.width && down.width == gate.rows,
          "the matrices differ in shape");
    auto biased = [&](int which, size_t n) {
        const int32_t id = op.weights[which];
        return id == -1 ||
               (id >= 0 && static_cast<size_t>(id) < vectors_.size() && vectors_[id].size() == n);
    };
    check(biased(O::kGateBias, gate.count * gate.rows) && biased(O::kUpBias, up.count * up.rows) &&
              biased(O::kDownBias, down.count * down.rows) && biased(O::kChoiceBias, gate.count),
          "wrong biases");
    const int64_t top_k = op.ints[O::kTopK], function = op.ints[O::kFunction];
    check(top_k > 0 && static_cast<size_t>(top_k) <= gate.count, "more experts than there are");
    check(function >= 0 && function <= kNumActivations, "unknown function");
    check(op.ints[O::kTerms] == 1 || op.ints[O::kTerms] == 2, "one or two terms");
    const auto terms = static_cast<size_t>(op.ints[O::kTerms]);
    for (const auto& [input, matrix] :
         {std::pair(op.in[O::kGateInput], &gate), std::pair(op.in[O::kUpInput], &up)}) {
        const bool quantized = kernel_of(*matrix).quantized_input;
        const size_t stride = buffers_[input].stride;
        check(buffers_[input].width == matrix->width &&
                  (quantized ? stride / terms >= quantized_row_bytes(matrix->width)
                             : stride / sizeof(float) >= matrix->width),
              "input and matrix differ in width");
    }
    check(buffers_[op.in[O::kLogits]].width == gate.count &&
              buffers_[op.in[O::kLogits]].stride / sizeof(float) >= gate.count,
          "a logit for each expert");
    const Buffer& out = buffers_[op.out[O::kResult]];
    const Buffer& work = buffers_[op.out[O::kWork]];
    check(out.width == down.rows && out.stride / sizeof(float) >= out.width,
          "output and matrix differ in width");
    check(work.width == gate.rows && work.stride >= moe_numbers(op).row_bytes(),
          "the work buffer is too small");
    for (const auto& list : {op.in, op.out}) {
        for (const int32_t b : list) check(buffers_[b].rows == out.rows, "they differ in rows");
    }
}

void Program::run_moe(const Op& op, const StepView& step) {
    const MoeNumbers m = moe_numbers(op);
    const size_t num_rows = count(op.out[O::kResult], step);
    if (num_rows == 0) return;
    const size_t num_slots = num_rows * m.top_k;
    uint8_t* const work = row(op.out[O::kWork], 0);
    auto choices = [&](size_t r) { return reinterpret_cast<Choice*>(work + r * m.choices); };
    auto vector_of = [&](int which) {
        return op.weights[which] < 0 ? nullptr : vectors_[op.weights[which]].data();
    };

    // Which experts, and the rows of each.
    const Routing routing{.num_experts = m.num_experts,
                          .top_k = m.top_k,
                          .sigmoid = op.ints[O::kSigmoid] != 0,
                          .normalize = op.ints[O::kNormalize] != 0,
                          .scale = op.floats[O::kScale],
                          .choice_bias = vector_of(O::kChoiceBias)};
    each_row_on(num_rows, 16 * m.num_experts, [&](size_t r, size_t thread) {
        route(floats(op.in[O::kLogits], r), routing,
              expert_scores_.data() + thread * expert_stride_, choices(r));
    });
    std::fill_n(expert_begin_.begin(), m.num_experts + 1, size_t{0});
    for (size_t r = 0; r < num_rows; ++r) {
        for (size_t i = 0; i < m.top_k; ++i) ++expert_begin_[choices(r)[i].expert + 1];
    }
    for (size_t e = 0; e < m.num_experts; ++e) expert_begin_[e + 1] += expert_begin_[e];
    for (size_t r = 0; r < num_rows; ++r) {
        for (size_t i = 0; i < m.top_k; ++i) {
            Choice& c = choices(r)[i];
            c.slot = static_cast<int32_t>(expert_begin_[c.expert]++);
            expert_rows_[c.slot] = static_cast<int32_t>(r);
        }
    }
    for (size_t e = m.num_experts; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
    expert_begin_[0] = 0;

    // Rows of an expert that are not neighbours in the step are put side by side.
    uint8_t* const gathered[] = {work + m.gate_input_at(num_rows), work + m.up_input_at(num_rows)};
    const size_t input_bytes[] = {m.gate_input, m.up_input};
    auto neighbours = [&](size_t expert) {
        const size_t begin = expert_begin_[expert], last = expert_begin_[expert + 1] - 1;
        return static_cast<size_t>(expert_rows_[last] - expert_rows_[begin]) == last - begin;
    };
    if (num_rows > 1) {
        each_row(num_slots, m.gate_input / sizeof(float), [&](size_t slot) {
            const auto r = static_cast<size_t>(expert_rows_[slot]);
            for (int i = O::kGateInput; i <= O::kUpInput; ++i) {
                if (input_bytes[i] == 0) continue;
                std::memcpy(gathered[i] + slot * input_bytes[i], row(op.in[i], r), input_bytes[i]);
            }
        });
    }

    uint8_t* const outputs[] = {work + m.gate_at(num_rows), work + m.up_at(num_rows),
                                work + m.answer_at(num_rows)};
    uint8_t* const hidden = work + m.hidden_at(num_rows);
    auto run_experts = [&](int first, int last) {
        plan_experts(op, m.num_experts, first, last);
        pool_.run(expert_tasks_.size(), [&](size_t task, size_t) {
            const ExpertTask& t = expert_tasks_[task];
            const Matrix& matrix = matrices_[op.weights[t.which]];
            const LinearKernel& kernel = kernel_of(matrix);
            const size_t slot = expert_begin_[t.expert];
            const uint8_t* x = hidden + slot * m.hidden;
            size_t x_stride = m.hidden;
            if (t.which != O::kDown) {
                const int from = t.which == O::kUp && m.up_input != 0 ? 1 : 0;
                x_stride = input_bytes[from];
                x = neighbours(t.expert) ? row(op.in[from], static_cast<size_t>(expert_rows_[slot]))
                                         : gathered[from] + slot * x_stride;
            }
            const float* bias = vector_of(O::kGateBias + t.which);
            const size_t stride = t.which == O::kDown ? m.answer : m.floats;
            kernel.run({.weights = matrix.packed.data() +
                                   t.expert * matrix.num_groups * kernel.group_bytes(matrix.width),
                        .group_begin = t.begin,
                        .group_end = t.end,
                        .width = matrix.width,
                        .out_width = matrix.rows,
                        .x = x,
                        .x_stride = x_stride,
                        .terms = kernel.quantized_input ? m.terms : 1,
                        .num_rows = expert_begin_[t.expert + 1] - slot,
                        .out = reinterpret_cast<float*>(outputs[t.which] + slot * stride),
                        .out_stride = stride / sizeof(float),
                        .bias = bias == nullptr ? nullptr : bias + t.expert * matrix.rows,
                        .addend = nullptr,
                        .addend_stride = 0});
        });
    };

    run_experts(O::kGate, O::kUp);
    const auto function = static_cast<int>(op.ints[O::kFunction]);
    const bool clamped = function == kNumActivations;
    const bool quantized = kernel_of(matrices_[op.weights[O::kDown]]).quantized_input;
    each_row_on(num_slots, m.inner, [&](size_t slot, size_t thread) {
        auto* gate = reinterpret_cast<float*>(outputs[O::kGate] + slot * m.floats);
        auto* up = reinterpret_cast<float*>(outputs[O::kUp] + slot * m.floats);
        uint8_t* to = hidden + slot * m.hidden;
        if (clamped) clamp(gate, up, m.inner, op.floats[O::kAlpha], op.floats[O::kLimit]);
        float* product = quantized ? row_scratch(thread) : reinterpret_cast<float*>(to);
        kernels_.rows.gated(gate, up, m.inner, clamped ? kSilu : function, product);
        if (!quantized) return;
        quantize_row(product, m.inner, m.terms, to, m.hidden, product + row_scratch_floats_ / 2);
    });
    run_experts(O::kDown, O::kDown);
    each_row(num_rows, m.width, [&](size_t r) {
        float* out = floats(op.out[O::kResult], r);
        for (size_t i = 0; i < m.top_k; ++i) {
            const Choice& c = choices(r)[i];
            const auto* answer = reinterpret_cast<const float*>(
                outputs[O::kDown] + static_cast<size_t>(c.slot) * m.answer);
            if (i == 0) {
                kernels_.rows.scale(answer, m.width, c.share, out);
            } else {
                add_scaled(answer, c.share, m.width, out);
            }
        }
    });
}

// Cuts the matrices `first` to `last` of all experts that have rows into tasks of like cost.
void Program::plan_experts(const Op& op, size_t num_experts, int first, int last) {
    expert_tasks_.clear();
    auto cost_of = [&](size_t expert) {
        const size_t n = expert_begin_[expert + 1] - expert_begin_[expert];
        return n == 0 ? 0 : n + kWeightRows;
    };
    size_t total = 0;
    for (size_t e = 0; e < num_experts; ++e) {
        for (int i = first; i <= last; ++i) {
            total += cost_of(e) * matrices_[op.weights[i]].num_groups;
        }
    }
    const size_t share = std::max<size_t>(1, total / (kTasksPerThread * pool_.num_threads()));
    for (size_t e = 0; e < num_experts; ++e) {
        const size_t cost = cost_of(e);
        if (cost == 0) continue;
        const size_t groups = std::max<size_t>(1, share / cost);
        for (int i = first; i <= last; ++i) {
            const size_t end = matrices_[op.weights[i]].num_groups;
            for (size_t g = 0; g < end; g += groups) {
                expert_tasks_.push_back({i, static_cast<int32_t>(e), g, std::min(end, g + groups)});
            }
        }
    }
}

}  // namespace tektra
