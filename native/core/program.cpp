// Building a program and running its ops.
#include "tektra/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "attention_plan.h"
#include "float_state.h"

namespace tektra {
namespace {

// Shares of a linear op a thread: enough to even out a slow core, few enough to stream memory.
constexpr size_t kChunksPerThread = 8;

// What a quantized row has rounded away of x.
void quantization_error(const float* x, size_t n, const uint8_t* row, float* out) {
    const auto* blocks = reinterpret_cast<const ActivationBlock*>(row);
    float d;
    std::memcpy(&d, row + n / kActivationBlock * sizeof(ActivationBlock), sizeof d);
    for (size_t b = 0; b < n / kActivationBlock; ++b) {
        for (size_t e = 0; e < kActivationBlock; ++e) {
            const float scale = d * blocks[b].scale[e / 16];
            out[kActivationBlock * b + e] =
                x[kActivationBlock * b + e] - scale * static_cast<float>(blocks[b].q[e]);
        }
    }
}

// The limits, where a step can address them: its numbers are 32 bits wide.
const Limits& checked(const Limits& limits) {
    constexpr size_t kMost = std::numeric_limits<int32_t>::max();
    constexpr size_t kMostThreads = 1024;
    if (limits.num_threads < 1 || limits.num_threads > kMostThreads) {
        throw std::invalid_argument(std::to_string(limits.num_threads) + " threads; 1 to " +
                                    std::to_string(kMostThreads) + " are possible");
    }
    if (limits.max_rows > kMost || limits.max_outputs > kMost || limits.num_kv_blocks > kMost) {
        throw std::invalid_argument("more rows, outputs or cache blocks than 32 bits can count");
    }
    return limits;
}

}  // namespace

Program::Exclusive::Exclusive(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire)) {
        throw std::runtime_error("the program is in use on another thread");
    }
}

Program::Program(const KernelTable& kernels, const Limits& limits)
    : kernels_(kernels), limits_(checked(limits)), pool_(limits.num_threads) {
    row_sequence_.resize(limits.max_rows);
    row_block_.resize(limits.max_rows);
    written_in_.resize(limits.num_kv_blocks);
}

int32_t Program::add_vector(const float* values, size_t n) {
    const Exclusive exclusive(busy_);
    check_building();
    vectors_.emplace_back(values, values + n);
    return static_cast<int32_t>(vectors_.size() - 1);
}

int32_t Program::add_frequencies(const double* values, size_t n, double magnitude) {
    const Exclusive exclusive(busy_);
    check_building();
    frequencies_.push_back({std::vector<double>(values, values + n), magnitude});
    return static_cast<int32_t>(frequencies_.size() - 1);
}

int32_t Program::add_buffer(size_t offset, size_t stride, size_t width, Rows rows) {
    const Exclusive exclusive(busy_);
    check_building();
    buffers_.push_back({offset, stride, width, rows});
    return static_cast<int32_t>(buffers_.size() - 1);
}

void Program::add_op(Op op) {
    const Exclusive exclusive(busy_);
    check_building();
    check_op(op);
    std::vector<Chunk> chunks;
    if (op.code == OpCode::kLinear) {
        const size_t num_outs = op.out.size();
        size_t groups = 0;
        for (size_t i = 0; i < num_outs; ++i) groups += matrices_[op.weights[i]].num_groups;
        const size_t share = std::max<size_t>(1, groups / (kChunksPerThread * pool_.num_threads()));
        for (size_t i = 0; i < num_outs; ++i) {
            const size_t end = matrices_[op.weights[i]].num_groups;
            for (size_t g = 0; g < end; g += share) {
                chunks.push_back({static_cast<int32_t>(i), g, std::min(end, g + share)});
            }
        }
    }
    ops_.reserve(ops_.size() + 1);  // both or none
    chunks_.push_back(std::move(chunks));
    ops_.push_back(std::move(op));
}

void Program::finish(size_t arena_bytes) {
    const Exclusive exclusive(busy_);
    check_building();
    for (const Buffer& b : buffers_) {
        const size_t rows = b.rows == Rows::kTokens ? limits_.max_rows : limits_.max_outputs;
        if (b.offset % 64 != 0 || b.stride % 64 != 0 || b.offset > arena_bytes ||
            rows > (arena_bytes - b.offset) / std::max<size_t>(1, b.stride)) {
            throw std::invalid_argument("a buffer reaches past the arena");
        }
    }
    size_t partial_floats = 0;
    for (size_t& rows : table_rows_) rows = std::numeric_limits<int32_t>::max();
    for (const Op& op : ops_) {
        if (op.code == OpCode::kEmbed) {
            size_t& rows = table_rows_[op.ints[0]];
            rows = std::min(rows, matrices_[op.weights[0]].rows);
        }
        if (op.code == OpCode::kQuantize || op.code == OpCode::kRmsNormQuantize ||
            op.code == OpCode::kGatedQuantize || op.code == OpCode::kMoe) {
            // the last buffer of a mixture of experts is as wide as what it quantizes
            const size_t width = buffers_[op.out.back()].width;
            row_scratch_floats_ = std::max(row_scratch_floats_, 2 * ((width + 15) / 16 * 16));
        }
        if (op.code == OpCode::kMoe) {
            const auto top_k = static_cast<size_t>(op.ints[0]);
            const size_t experts = matrices_[op.weights[0]].count;
            expert_stride_ = std::max(expert_stride_, (2 * experts + 15) / 16 * 16);
            expert_begin_.resize(std::max(expert_begin_.size(), experts + 1));
            const size_t slots =
                product_of({top_k, std::max(limits_.max_rows, limits_.max_outputs)});
            expert_rows_.resize(std::max(expert_rows_.size(), slots));
        }
        if (op.code != OpCode::kAttention) continue;
        const AttentionNumbers a(op);
        needs_row_blocks_ |= a.block_diagonal;
        attention_scratch_floats_ = std::max(attention_scratch_floats_, a.scratch());
        partial_floats = std::max(partial_floats, a.partials(limits_));
    }
    expert_scores_.resize(expert_stride_ * pool_.num_threads());
    arena_ = Memory(arena_bytes);
    row_scratch_ = Memory(product_of({row_scratch_floats_, pool_.num_threads(), sizeof(float)}));
    cache_ = Memory(product_of({limits_.num_kv_blocks, cache_block_bytes_}), true);
    attention_scratch_ =
        Memory(product_of({attention_scratch_floats_, pool_.num_threads(), sizeof(float)}));
    attention_partials_ = Memory(product_of({partial_floats, sizeof(float)}));
    finished_ = true;
}

Program::Result Program::result(int32_t buffer) const {
    if (!finished_) throw std::invalid_argument("the program is not finished");
    if (buffer < 0 || static_cast<size_t>(buffer) >= buffers_.size()) {
        throw std::invalid_argument("no such buffer");
    }
    const Buffer& b = buffers_[buffer];
    if (b.rows != Rows::kOutputs || b.stride / sizeof(float) < b.width) {
        throw std::invalid_argument("the buffer has no output rows of floats");
    }
    return {reinterpret_cast<const float*>(arena_.data() + b.offset), b.stride / sizeof(float),
            b.width};
}

void Program::release() {
    const Exclusive exclusive(busy_);
    ops_.clear();
    chunks_.clear();
    matrices_.clear();
    room_ = Memory();
    vectors_.clear();
    caches_.clear();
    cache_ = Memory();
    // moving memory swaps it, so that the old one is freed with the temporary
    row_scratch_ = Memory();
    attention_scratch_ = Memory();
    attention_partials_ = Memory();
    adapters_.clear();
    lora_hidden_ = Memory();
    lora_scratch_ = Memory();
    released_ = true;
}

void Program::set_profiling(bool on) {
    const Exclusive exclusive(busy_);
    if (!finished_) throw std::invalid_argument("the program is not finished");
    if (on) profile_.assign(ops_.size(), {});
    profiling_ = on;
}

size_t Program::weight_bytes() const {
    size_t bytes = 0;
    for (const Matrix& m : matrices_) bytes += m.packed.size();
    for (const auto& v : vectors_) bytes += v.size() * sizeof(float);
    return bytes;
}

size_t Program::cache_bytes() const {
    return cache_.size();
}

size_t Program::activation_bytes() const {
    return arena_.size() + row_scratch_.size() + attention_scratch_.size() +
           attention_partials_.size();
}

void Program::run(const StepView& step, size_t num_ops) {
    const Exclusive exclusive(busy_);
    const DefaultFloats floats;
    if (!finished_ || released_) throw std::invalid_argument("the program cannot run");
    check_step(step);
    for (size_t s = 0; s < step.num_sequences; ++s) {
        std::fill(row_sequence_.begin() + step.row_starts[s],
                  row_sequence_.begin() + step.row_starts[s + 1], static_cast<int32_t>(s));
    }
    plan_adapters(step);
    num_ops = std::min(num_ops, ops_.size());
    if (!profiling_) {
        for (size_t i = 0; i < num_ops; ++i) run_op(i, step);
        return;
    }
    for (size_t i = 0; i < num_ops; ++i) {
        const auto start = std::chrono::steady_clock::now();
        run_op(i, step);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        profile_[i].seconds += taken.count();
        profile_[i].calls += 1;
    }
}

void Program::run_linear(size_t index, const StepView& step) {
    const Op& op = ops_[index];
    const size_t num_outs = op.out.size();
    const std::vector<Chunk>& chunks = chunks_[index];
    const size_t num_rows = count(op.in[0], step);
    if (num_rows == 0) return;
    const bool has_addend = op.ints[0] != 0;
    const size_t terms = op.ints[1];
    pool_.run(chunks.size(), [&](size_t task, size_t) {
        const Chunk& chunk = chunks[task];
        const Matrix& matrix = matrices_[op.weights[chunk.which]];
        const LinearKernel& kernel = kernel_of(matrix);
        const int32_t bias = op.weights[num_outs + chunk.which];
        kernel.run({.weights = matrix.packed.data(),
                    .group_begin = chunk.begin,
                    .group_end = chunk.end,
                    .width = matrix.width,
                    .out_width = matrix.rows,
                    .x = row(op.in[0], 0),
                    .x_stride = buffers_[op.in[0]].stride,
                    .terms = terms,
                    .num_rows = num_rows,
                    .out = floats(op.out[chunk.which], 0),
                    .out_stride = buffers_[op.out[chunk.which]].stride / sizeof(float),
                    .bias = bias < 0 ? nullptr : vectors_[bias].data(),
                    .addend = has_addend ? floats(op.in[1], 0) : nullptr,
                    .addend_stride = has_addend ? buffers_[op.in[1]].stride / sizeof(float) : 0});
    });
    if (adapting_) run_adapters(index);
}

void Program::run_quantize(const Op& op, const StepView& step) {
    const RowKernels& k = kernels_.rows;
    const int32_t to = op.out[0];
    const size_t width = buffers_[to].width, terms = op.ints[0];
    each_row_on(count(to, step), width, [&](size_t r, size_t thread) {
        float* scratch = row_scratch(thread);
        const float* x = floats(op.in[0], r);
        if (op.code == OpCode::kRmsNormQuantize) {
            const auto group = static_cast<size_t>(op.ints[1]);
            for (size_t at = 0; at < width; at += group) {
                k.rms_norm(x + at, vectors_[op.weights[0]].data(), group, op.floats[0],
                           scratch + at);
            }
            x = scratch;
        } else if (op.code == OpCode::kGatedQuantize) {
            k.gated(x, floats(op.in[1], r), width, static_cast<int>(op.ints[1]), scratch);
            x = scratch;
        }
        quantize_row(x, width, terms, row(to, r), buffers_[to].stride,
                     scratch + row_scratch_floats_ / 2);
    });
}

void Program::quantize_row(const float* x, size_t width, size_t terms, uint8_t* to, size_t stride,
                           float* rest) const {
    kernels_.rows.quantize(x, width, to);
    if (terms == 1) return;
    quantization_error(x, width, to, rest);
    kernels_.rows.quantize(rest, width, to + stride / terms);
}

void Program::run_op(size_t index, const StepView& step) {
    const Op& op = ops_[index];
    const RowKernels& k = kernels_.rows;
    const int32_t to = op.out[0];
    const size_t num_rows = count(to, step);
    const size_t width = buffers_[to].width;
    auto in = [&](size_t i, size_t r) { return floats(op.in[i], r); };
    auto out = [&](size_t r) { return floats(to, r); };
    auto each = [&](const auto& function) { each_row(num_rows, width, function); };

    switch (op.code) {
        case OpCode::kEmbed: {
            const Matrix& table = matrices_[op.weights[0]];
            const LinearKernel& kernel = kernel_of(table);
            const size_t group_bytes = kernel.group_bytes(table.width);
            const int32_t* const numbers[] = {step.token_ids, step.positions, step.segments};
            const int32_t* const ids = numbers[op.ints[0]];
            each([&](size_t r) {
                const size_t id = ids == nullptr ? 0 : static_cast<size_t>(ids[r]);
                kernel.unpack_row(table.packed.data() + id / kernel.lanes * group_bytes,
                                  id % kernel.lanes, table.width, out(r));
            });
            break;
        }
        case OpCode::kQuantize:
        case OpCode::kRmsNormQuantize:
        case OpCode::kGatedQuantize:
            run_quantize(op, step);
            break;
        case OpCode::kLinear:
            run_linear(index, step);
            break;
        case OpCode::kRmsNorm: {
            const float* weight = vectors_[op.weights[0]].data();
            const auto group = static_cast<size_t>(op.ints[0]);
            each([&](size_t r) {
                for (size_t at = 0; at < width; at += group) {
                    k.rms_norm(in(0, r) + at, weight, group, op.floats[0], out(r) + at);
                }
            });
            break;
        }
        case OpCode::kLayerNorm: {
            const float* weight = vectors_[op.weights[0]].data();
            const float* bias = op.weights[1] < 0 ? nullptr : vectors_[op.weights[1]].data();
            each([&](size_t r) {
                k.layer_norm(in(0, r), weight, bias, width, op.floats[0], out(r));
            });
            break;
        }
        case OpCode::kRopeTable: {
            const Frequencies& f = frequencies_[op.weights[0]];
            const size_t pairs = f.values.size();
            each([&](size_t r) {
                for (size_t i = 0; i < pairs; ++i) {
                    const double angle = step.positions[r] * f.values[i];
                    out(r)[i] = static_cast<float>(std::cos(angle) * f.magnitude);
                    out(r)[pairs + i] = static_cast<float>(std::sin(angle) * f.magnitude);
                }
            });
            break;
        }
        case OpCode::kRope: {
            const auto head_dim = static_cast<size_t>(op.ints[0]);
            const auto dim = static_cast<size_t>(op.ints[1]);
            const auto rotate = op.ints[2] != 0 ? k.rope_half : k.rope_interleaved;
            each([&](size_t r) {
                const float* table = in(1, r);
                rotate(in(0, r), table, table + dim / 2, width / head_dim, head_dim, dim, out(r));
            });
            break;
        }
        case OpCode::kAttention:
            run_attention(op, step);
            break;
        case OpCode::kMoe:
            run_moe(op, step);
            break;
        case OpCode::kActivate:
            each([&](size_t r) {
                k.activate(in(0, r), width, static_cast<int>(op.ints[0]), out(r));
            });
            break;
        case OpCode::kGated:
            each([&](size_t r) {
                k.gated(in(0, r), in(1, r), width, static_cast<int>(op.ints[0]), out(r));
            });
            break;
        case OpCode::kAdd:
            each([&](size_t r) { k.add(in(0, r), in(1, r), width, out(r)); });
            break;
        case OpCode::kMul:
            if (buffers_[op.in[1]].width == 1) {
                each([&](size_t r) { k.scale(in(0, r), width, *in(1, r), out(r)); });
                break;
            }
            each([&](size_t r) { k.mul(in(0, r), in(1, r), width, out(r)); });
            break;
        case OpCode::kScale:
            each([&](size_t r) { k.scale(in(0, r), width, op.floats[0], out(r)); });
            break;
        case OpCode::kSoftcap:
            each([&](size_t r) { k.softcap(in(0, r), width, op.floats[0], out(r)); });
            break;
        case OpCode::kSelect:
            each([&](size_t r) {
                std::memcpy(out(r), in(0, static_cast<size_t>(step.output_rows[r])),
                            width * sizeof(float));
            });
            break;
        case OpCode::kColumns:
            each([&](size_t r) {
                std::memcpy(out(r), in(0, r) + op.ints[0], width * sizeof(float));
            });
            break;
        case OpCode::kNumOpCodes:
            break;
    }
}

}  // namespace tektra
