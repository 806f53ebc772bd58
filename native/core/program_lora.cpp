// Adapters of low rank (LoRA, Hu et al., https://arxiv.org/abs/2106.09685): what a row's adapters
// add to linear ops. Rows that share an adapter go together, a few at a time; each row takes the
// same steps however many others there are.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "float_state.h"
#include "tektra/program.h"

namespace tektra {
namespace {

constexpr size_t kMostRows = 16;       // in a tile
constexpr size_t kFewestRows = 4;      // in a tile, where there are more
constexpr size_t kColumns = 128;       // of an output in a task; a multiple of the lanes
constexpr size_t kMostRank = 1 << 14;  // of all factors of an op
constexpr size_t kMostAdapters = 64;   // of a row

[[noreturn]] void fail(const std::string& message) {
    throw std::invalid_argument(message);
}

// A quantized row of `terms` terms, `stride` bytes apart, as floats.
void dequantize(const uint8_t* row, size_t width, size_t terms, size_t stride, float* out) {
    const size_t num_blocks = width / kActivationBlock;
    for (size_t term = 0; term < terms; ++term, row += stride) {
        const auto* blocks = reinterpret_cast<const ActivationBlock*>(row);
        float d;
        std::memcpy(&d, row + num_blocks * sizeof(ActivationBlock), sizeof d);
        for (size_t b = 0; b < num_blocks; ++b) {
            for (size_t half = 0; half < 2; ++half) {
                const float scale = d * blocks[b].scale[half];
                const int8_t* q = blocks[b].q + 16 * half;
                float* to = out + kActivationBlock * b + 16 * half;
                float values[16];
                for (size_t e = 0; e < 16; ++e) values[e] = scale * static_cast<float>(q[e]);
                if (term == 0) {
                    std::memcpy(to, values, sizeof values);
                } else {
                    for (size_t e = 0; e < 16; ++e) to[e] += values[e];
                }
            }
        }
    }
}

Memory packed(const LinearKernel& kernel, const uint8_t* rows, size_t num_rows, size_t width) {
    Memory memory(kernel.matrix_bytes(num_rows, width), true);
    const size_t row_bytes = width / kernel.block_width * kernel.source_bytes;
    for (size_t first = 0; first < num_rows; first += kernel.lanes) {
        kernel.pack(rows + first * row_bytes, std::min(kernel.lanes, num_rows - first), row_bytes,
                    width, memory.data() + first / kernel.lanes * kernel.group_bytes(width));
    }
    return memory;
}

}  // namespace

int32_t Program::add_adapter() {
    const Exclusive exclusive(busy_);
    if (!finished_ || released_) fail("the program cannot take adapters");
    auto adapter = std::make_unique<Adapter>();
    adapter->linears.resize(ops_.size());
    adapters_.push_back(std::move(adapter));
    return static_cast<int32_t>(adapters_.size() - 1);
}

void Program::add_factors(int32_t id, size_t index, WeightType type, const uint8_t* a,
                          size_t num_bytes, const std::vector<LoraFactor>& factors) {
    const Exclusive exclusive(busy_);
    const DefaultFloats floats;
    if (id < 0 || static_cast<size_t>(id) >= adapters_.size() || !adapters_[id]) {
        fail("no such adapter");
    }
    if (index >= ops_.size() || ops_[index].code != OpCode::kLinear) fail("not a linear op");
    std::unique_ptr<LoraLinear>& place = adapters_[id]->linears[index];
    if (place) fail("the adapter has factors for this op already");
    if (type != WeightType::F32 && type != WeightType::F16 && type != WeightType::BF16) {
        fail("factors are float matrices");
    }
    const Op& op = ops_[index];
    const size_t width = buffers_[op.in[0]].width;
    auto linear = std::make_unique<LoraLinear>();
    linear->type = type;
    linear->rank = 0;
    std::vector<bool> taken(op.out.size());
    for (const LoraFactor& f : factors) {
        if (f.out >= op.out.size() || taken[f.out]) fail("no such output, or one taken twice");
        taken[f.out] = true;
        if (f.rank == 0 || f.rank > kMostRank) fail("a rank that is 0 or too large");
        if (!std::isfinite(f.scale)) fail("a scale that is not finite");
        const size_t rows = buffers_[op.out[f.out]].width;
        const LinearKernel& kernel = kernel_for(type, rows, f.rank, 1);
        if (f.num_bytes != rows * f.rank * kernel.source_bytes) fail("b is of another size");
        linear->factors.push_back(
            {f.out, f.rank, linear->rank, f.scale, packed(kernel, f.b, rows, f.rank)});
        linear->rank += f.rank;
    }
    if (linear->rank == 0 || linear->rank > kMostRank) fail("no factors, or ranks too large");
    const LinearKernel& kernel = kernel_for(type, linear->rank, width, 1);
    if (num_bytes != linear->rank * width * kernel.source_bytes) fail("a is of another size");
    linear->a = packed(kernel, a, linear->rank, width);

    const size_t rank = std::max(lora_rank_, linear->rank);
    const size_t scratch = std::max(lora_scratch_floats_, kMostRows * ((width + 15) / 16 * 16));
    if (scratch != lora_scratch_floats_) {
        lora_scratch_ = Memory(product_of({scratch, pool_.num_threads(), sizeof(float)}));
        lora_scratch_floats_ = scratch;
    }
    const size_t hidden = product_of({limits_.max_rows, rank, sizeof(float)});
    if (hidden > lora_hidden_.size()) lora_hidden_ = Memory(hidden);
    lora_rank_ = rank;
    place = std::move(linear);
}

void Program::remove_adapter(int32_t id) {
    const Exclusive exclusive(busy_);
    if (id < 0 || static_cast<size_t>(id) >= adapters_.size() || !adapters_[id]) {
        fail("no such adapter");
    }
    adapters_[id].reset();
}

size_t Program::adapter_bytes() const {
    size_t bytes = lora_hidden_.size() + lora_scratch_.size();
    for (const auto& adapter : adapters_) {
        if (!adapter) continue;
        for (const auto& linear : adapter->linears) {
            if (!linear) continue;
            bytes += linear->a.size();
            for (const auto& factor : linear->factors) bytes += factor.b.size();
        }
    }
    return bytes;
}

void Program::check_adapters(const StepView& step) const {
    if (step.num_adapters > kMostAdapters) fail("step: more than 64 adapters for a sequence");
    for (size_t i = 0; i < step.num_sequences * step.num_adapters; ++i) {
        const int32_t id = step.adapters[i];
        if (id == -1) continue;
        if (id < 0 || static_cast<size_t>(id) >= adapters_.size() || !adapters_[id]) {
            fail("step: adapter " + std::to_string(id) + " is not there");
        }
        if (!std::isfinite(step.adapter_scales[i])) {
            fail("step: an adapter's scale is not finite");
        }
    }
}

// Which rows go together. What the second adapter of a row adds comes after what the first does, so
// the order is the row's own.
void Program::plan_adapters(const StepView& step) {
    adapting_ = false;
    for (size_t i = 0; i < step.num_sequences * step.num_adapters && !adapting_; ++i) {
        adapting_ = step.adapters[i] >= 0;
    }
    if (!adapting_) return;
    for (const Rows space : {Rows::kTokens, Rows::kOutputs}) {
        LoraPlan& plan = lora_[static_cast<size_t>(space)];
        plan = {};
        const size_t num_rows = space == Rows::kTokens ? step.num_rows : step.num_outputs;
        for (size_t round = 0; round < step.num_adapters; ++round) {
            std::vector<std::pair<int32_t, int32_t>> order;  // adapter, row
            for (size_t r = 0; r < num_rows; ++r) {
                const size_t row = space == Rows::kTokens ? r : step.output_rows[r];
                const size_t at = row_sequence_[row] * step.num_adapters + round;
                if (step.adapters[at] >= 0) {
                    order.emplace_back(step.adapters[at], static_cast<int32_t>(r));
                }
            }
            std::sort(order.begin(), order.end());
            for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
                const int32_t id = order[begin].first;
                while (end < order.size() && order[end].first == id) ++end;
                const size_t share = (end - begin + pool_.num_threads() - 1) / pool_.num_threads();
                const size_t most = std::clamp((share + 3) / 4 * 4, kFewestRows, kMostRows);
                for (size_t first = begin; first < end; first += most) {
                    const size_t n = std::min(most, end - first);
                    plan.tiles.push_back(
                        {adapters_[id].get(), plan.rows.size(), plan.rows.size() + n});
                    for (size_t i = first; i < first + n; ++i) {
                        const size_t r = order[i].second;
                        const size_t row = space == Rows::kTokens ? r : step.output_rows[r];
                        const size_t at = row_sequence_[row] * step.num_adapters + round;
                        plan.rows.push_back(order[i].second);
                        plan.scales.push_back(step.adapter_scales[at]);
                    }
                }
            }
            plan.rounds.push_back(plan.tiles.size());
        }
        const size_t hidden = product_of({plan.rows.size(), lora_rank_, sizeof(float)});
        if (hidden > lora_hidden_.size()) lora_hidden_ = Memory(hidden);
    }
}

// Adds what the adapters of the step's rows add to the outputs of a linear op that has run.
void Program::run_adapters(size_t index) {
    const Op& op = ops_[index];
    const LoraPlan& plan = lora_[static_cast<size_t>(buffers_[op.in[0]].rows)];
    const bool quantized = kernel_of(matrices_[op.weights[0]]).quantized_input;
    const size_t width = buffers_[op.in[0]].width, terms = op.ints[1];
    auto concerned = [&](const LoraTile& t) { return t.adapter->linears[index] != nullptr; };
    if (std::none_of(plan.tiles.begin(), plan.tiles.end(), concerned)) return;
    auto hidden = [&](size_t row) {
        return reinterpret_cast<float*>(lora_hidden_.data()) + row * lora_rank_;
    };

    // hidden = a x, times the scales
    pool_.run(plan.tiles.size(), [&](size_t task, size_t thread) {
        const LoraTile& tile = plan.tiles[task];
        const LoraLinear* linear = tile.adapter->linears[index].get();
        if (linear == nullptr) return;
        const LinearKernel& kernel = kernels_.linear[static_cast<int>(linear->type)];
        const size_t num_rows = tile.end - tile.first;
        const size_t stride = (width + 15) / 16 * 16;
        auto* x = reinterpret_cast<float*>(lora_scratch_.data()) + thread * lora_scratch_floats_;
        for (size_t i = 0; i < num_rows; ++i) {
            const uint8_t* from = row(op.in[0], plan.rows[tile.first + i]);
            if (quantized) {
                dequantize(from, width, terms, buffers_[op.in[0]].stride / terms, x + i * stride);
            } else {
                std::memcpy(x + i * stride, from, width * sizeof(float));
            }
        }
        kernel.run({.weights = linear->a.data(),
                    .group_begin = 0,
                    .group_end = (linear->rank + kernel.lanes - 1) / kernel.lanes,
                    .width = width,
                    .out_width = linear->rank,
                    .x = reinterpret_cast<const uint8_t*>(x),
                    .x_stride = stride * sizeof(float),
                    .terms = 1,
                    .num_rows = num_rows,
                    .out = hidden(tile.first),
                    .out_stride = lora_rank_,
                    .bias = nullptr,
                    .addend = nullptr,
                    .addend_stride = 0});
        for (size_t i = tile.first; i < tile.end; ++i) {
            for (const auto& factor : linear->factors) {
                float* h = hidden(i) + factor.first;
                kernels_.rows.scale(h, factor.rank, factor.scale * plan.scales[i], h);
            }
        }
    });

    // outputs += b hidden
    size_t begin = 0;
    for (const size_t end : plan.rounds) {
        size_t parts = 0;  // of the widest tile
        for (size_t t = begin; t < end; ++t) {
            const LoraLinear* linear = plan.tiles[t].adapter->linears[index].get();
            size_t own = 0;
            if (linear != nullptr) {
                for (const auto& f : linear->factors) {
                    own += (buffers_[op.out[f.out]].width + kColumns - 1) / kColumns;
                }
            }
            parts = std::max(parts, own);
        }
        pool_.run(parts * (end - begin), [&](size_t task, size_t) {
            const LoraTile& tile = plan.tiles[begin + task / parts];
            const LoraLinear* linear = tile.adapter->linears[index].get();
            if (linear == nullptr) return;
            size_t part = task % parts;
            for (const auto& factor : linear->factors) {
                const size_t out_width = buffers_[op.out[factor.out]].width;
                const size_t own = (out_width + kColumns - 1) / kColumns;
                if (part >= own) {
                    part -= own;
                    continue;
                }
                const LinearKernel& kernel = kernels_.linear[static_cast<int>(linear->type)];
                const size_t column = part * kColumns;
                const size_t columns = std::min(kColumns, out_width - column);
                alignas(64) float sums[kMostRows * kColumns];
                kernel.run(
                    {.weights =
                         factor.b.data() + column / kernel.lanes * kernel.group_bytes(factor.rank),
                     .group_begin = 0,
                     .group_end = (columns + kernel.lanes - 1) / kernel.lanes,
                     .width = factor.rank,
                     .out_width = columns,
                     .x = reinterpret_cast<const uint8_t*>(hidden(tile.first) + factor.first),
                     .x_stride = lora_rank_ * sizeof(float),
                     .terms = 1,
                     .num_rows = tile.end - tile.first,
                     .out = sums,
                     .out_stride = kColumns,
                     .bias = nullptr,
                     .addend = nullptr,
                     .addend_stride = 0});
                for (size_t i = tile.first; i < tile.end; ++i) {
                    float* out = floats(op.out[factor.out], plan.rows[i]) + column;
                    kernels_.rows.add(out, sums + (i - tile.first) * kColumns, columns, out);
                }
                return;
            }
        });
        begin = end;
    }
}

}  // namespace tektra
