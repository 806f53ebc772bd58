// What an op and a step must satisfy, checked before anything is touched: whatever a caller gets
// wrong, nothing is read or written outside its memory.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "attention_plan.h"

namespace tektra {
namespace {

// Numbers of inputs, outputs, weights, ints and floats of each op; -1: any.
struct Form {
    const char* name;
    int in, out, weights, ints, floats;
};
constexpr Form kForms[] = {
    {"embed", 0, 1, 1, 1, 0},
    {"quantize", 1, 1, 0, 1, 0},
    {"linear", -1, -1, -1, 2, 0},
    {"rms_norm", 1, 1, 1, 1, 1},
    {"layer_norm", 1, 1, 2, 0, 1},
    {"rope_table", 0, 1, 1, 0, 0},
    {"rope", 2, 1, 0, 3, 0},
    {"attention", 3, 1, 1, AttentionNumbers::kNumInts, -1},
    {"activate", 1, 1, 0, 1, 0},
    {"gated", 2, 1, 0, 1, 0},
    {"add", 2, 1, 0, 0, 0},
    {"mul", 2, 1, 0, 0, 0},
    {"scale", 1, 1, 0, 0, 1},
    {"softcap", 1, 1, 0, 0, 1},
    {"select", 1, 1, 0, 0, 0},
    {"rms_norm_quantize", 1, 1, 1, 2, 1},
    {"gated_quantize", 2, 1, 0, 2, 0},
    {"columns", 1, 1, 0, 1, 0},
    {"moe", 3, 2, 7, 5, 3},
};
static_assert(sizeof kForms / sizeof kForms[0] == static_cast<size_t>(OpCode::kNumOpCodes));

[[noreturn]] void fail(const std::string& message) {
    throw std::invalid_argument(message);
}

void require(bool condition, const char* op, const char* what) {
    if (!condition) fail(std::string(op) + ": " + what);
}

bool fits(int wanted, size_t there) {
    return wanted < 0 || there == static_cast<size_t>(wanted);
}

}  // namespace

const char* op_name(OpCode code) {
    return kForms[static_cast<size_t>(code)].name;
}

void Program::check_building() const {
    if (finished_ || released_) fail("the program is finished: nothing can be added");
}

void Program::check_op(const Op& op) const {
    const auto code = static_cast<size_t>(op.code);
    if (code >= static_cast<size_t>(OpCode::kNumOpCodes)) fail("unknown op");
    const Form& form = kForms[code];
    auto check = [&](bool condition, const char* what) { require(condition, form.name, what); };
    check(fits(form.in, op.in.size()) && fits(form.out, op.out.size()) &&
              fits(form.weights, op.weights.size()) && fits(form.ints, op.ints.size()) &&
              fits(form.floats, op.floats.size()),
          "wrong number of operands");
    for (const auto& list : {op.in, op.out}) {
        for (const int32_t b : list) {
            check(b >= 0 && static_cast<size_t>(b) < buffers_.size(), "no such buffer");
        }
    }
    auto width = [&](int32_t b) { return buffers_[b].width; };
    // a buffer of floats must have room for its width; quantized ones are checked by their op
    auto holds_floats = [&](int32_t b) { return buffers_[b].stride / sizeof(float) >= width(b); };
    auto vector_of = [&](int32_t id, size_t n, bool optional) {
        if (optional && id == -1) return true;
        return id >= 0 && static_cast<size_t>(id) < vectors_.size() && vectors_[id].size() == n;
    };
    auto matrix_of = [&](int32_t id) {
        return id >= 0 && static_cast<size_t>(id) < matrices_.size() && matrices_[id].count == 1;
    };
    auto same_rows = [&](int32_t a, int32_t b) { return buffers_[a].rows == buffers_[b].rows; };

    if (op.code == OpCode::kLinear) {
        const bool addend = op.ints[0] != 0;
        check(op.ints[1] == 1 || op.ints[1] == 2, "one or two terms");
        check(op.in.size() == (addend ? 2u : 1u) && !op.out.empty(), "wrong number of inputs");
        check(op.weights.size() == 2 * op.out.size(), "a matrix and a bias for each output");
        check(!addend || op.out.size() == 1, "an addend goes with one output");
        for (size_t i = 0; i < op.out.size(); ++i) {
            check(matrix_of(op.weights[i]), "no such matrix");
            const Matrix& matrix = matrices_[op.weights[i]];
            const size_t needed = kernel_of(matrix).quantized_input
                                      ? quantized_row_bytes(matrix.width)
                                      : matrix.width * sizeof(float);
            check(
                width(op.in[0]) == matrix.width && buffers_[op.in[0]].stride / op.ints[1] >= needed,
                "input and matrix differ in width");
            check(width(op.out[i]) == matrix.rows && holds_floats(op.out[i]),
                  "output and matrix differ in width");
            check(same_rows(op.in[0], op.out[i]), "input and output differ in rows");
            check(vector_of(op.weights[op.out.size() + i], matrix.rows, true), "wrong bias");
        }
        if (addend) {
            check(width(op.in[1]) == width(op.out[0]) && holds_floats(op.in[1]) &&
                      same_rows(op.in[1], op.out[0]),
                  "wrong addend");
        }
        return;
    }

    if (op.code == OpCode::kMoe) {
        check_moe(op);
        return;
    }

    const int32_t to = op.out[0];
    const size_t n = width(to);
    if (op.code == OpCode::kQuantize || op.code == OpCode::kRmsNormQuantize ||
        op.code == OpCode::kGatedQuantize) {
        check(op.ints[0] == 1 || op.ints[0] == 2, "one or two terms");
        check(n % 32 == 0 && buffers_[to].stride / op.ints[0] >= quantized_row_bytes(n),
              "wrong output");
    } else {
        check(holds_floats(to), "the output has no room for its width");
    }
    if (op.code != OpCode::kSelect) {
        for (const int32_t b : op.in) check(same_rows(b, to), "input and output differ in rows");
    }
    for (const int32_t b : op.in) check(holds_floats(b), "an input has no room for its width");

    switch (op.code) {
        case OpCode::kEmbed:
            check(matrix_of(op.weights[0]) && matrices_[op.weights[0]].width == n, "wrong table");
            check(buffers_[to].rows == Rows::kTokens, "the output must have token rows");
            check(op.ints[0] >= 0 && op.ints[0] < static_cast<int64_t>(EmbedBy::kNum),
                  "an unknown kind of table");
            break;
        case OpCode::kRmsNorm:
        case OpCode::kRmsNormQuantize: {
            const int64_t group = op.ints.back();
            check(group > 0 && n % static_cast<size_t>(group) == 0 && width(op.in[0]) == n,
                  "wrong width");
            check(vector_of(op.weights[0], static_cast<size_t>(group), false), "wrong weight");
            break;
        }
        case OpCode::kLayerNorm:
            check(width(op.in[0]) == n, "wrong width");
            check(vector_of(op.weights[0], n, false) && vector_of(op.weights[1], n, true),
                  "wrong weights");
            break;
        case OpCode::kRopeTable:
            check(op.weights[0] >= 0 && static_cast<size_t>(op.weights[0]) < frequencies_.size() &&
                      2 * frequencies_[op.weights[0]].values.size() == n,
                  "wrong frequencies");
            check(buffers_[to].rows == Rows::kTokens, "only token rows have positions");
            break;
        case OpCode::kRope:
            check(op.ints[0] > 0 && op.ints[1] > 0 && op.ints[1] <= op.ints[0] &&
                      op.ints[1] % 2 == 0 && n % static_cast<size_t>(op.ints[0]) == 0,
                  "wrong head size");
            check(width(op.in[0]) == n && width(op.in[1]) == static_cast<size_t>(op.ints[1]),
                  "wrong width");
            break;
        case OpCode::kAttention: {
            for (const int64_t value : op.ints) {  // so that no product of two overflows
                check(value >= 0 && value <= std::numeric_limits<int32_t>::max(),
                      "a number that is negative or too large");
            }
            const AttentionNumbers a(op);
            check(a.layer < caches_.size() && a.num_kv_heads > 0 && a.head_dim > 0 &&
                      a.value_dim > 0 && a.num_heads % a.num_kv_heads == 0 && a.group() > 0,
                  "wrong heads");
            check(a.group() <= kMaxGroup, "more than 256 query heads share a kv head");
            const KvShape& cache = caches_[a.layer];
            check(cache.num_kv_heads == a.num_kv_heads && cache.head_dim == a.head_dim &&
                      cache.value_dim == a.value_dim,
                  "the cache is of another shape");
            check(width(op.in[0]) == a.num_heads * a.head_dim &&
                      width(op.in[1]) == a.num_kv_heads * a.head_dim &&
                      width(op.in[2]) == a.num_kv_heads * a.value_dim &&
                      n == a.num_heads * a.value_dim,
                  "wrong width");
            check(buffers_[to].rows == Rows::kTokens, "only token rows attend");
            check(vector_of(op.weights[0], a.num_heads, true), "wrong sinks");
            check(op.floats.size() == AttentionNumbers::kNumFloats ||
                      op.floats.size() == AttentionNumbers::kNumFloats + a.num_heads,
                  "wrong number of slopes");
            break;
        }
        case OpCode::kColumns:
            check(op.ints[0] >= 0 && n <= width(op.in[0]) &&
                      static_cast<size_t>(op.ints[0]) <= width(op.in[0]) - n,
                  "the input has no such columns");
            break;
        case OpCode::kMul:
            check(width(op.in[0]) == n && (width(op.in[1]) == n || width(op.in[1]) == 1),
                  "input and output differ in width");
            break;
        case OpCode::kActivate:
        case OpCode::kGated:
        case OpCode::kGatedQuantize:
            check(op.ints.back() >= 0 && op.ints.back() < kNumActivations, "unknown function");
            [[fallthrough]];
        case OpCode::kSelect:
            if (op.code == OpCode::kSelect) {
                check(
                    buffers_[op.in[0]].rows == Rows::kTokens && buffers_[to].rows == Rows::kOutputs,
                    "goes from token rows to output rows");
            }
            [[fallthrough]];
        default:
            for (const int32_t b : op.in) check(width(b) == n, "input and output differ in width");
            break;
    }
}

// Messages are made only where something is wrong: this runs before every step.
void Program::check_step(const StepView& step) {
    if (step.num_rows == 0 || step.num_rows > limits_.max_rows) {
        fail("step: " + std::to_string(step.num_rows) + " rows, between 1 and " +
             std::to_string(limits_.max_rows) + " fit");
    }
    if (step.num_outputs > limits_.max_outputs) {
        fail("step: " + std::to_string(step.num_outputs) + " outputs, " +
             std::to_string(limits_.max_outputs) + " fit");
    }
    require(step.num_sequences > 0 && step.row_starts[0] == 0 &&
                step.row_starts[step.num_sequences] == static_cast<int64_t>(step.num_rows),
            "step", "the sequences do not cover the rows");
    for (size_t r = 0; r < step.num_rows; ++r) {
        const int32_t id = step.token_ids[r];
        auto known = [&](EmbedBy by, int32_t number) {
            return number >= 0 &&
                   static_cast<size_t>(number) < table_rows_[static_cast<size_t>(by)];
        };
        if (!known(EmbedBy::kToken, id)) {
            fail("step: token id " + std::to_string(id) + " is not in the vocabulary");
        }
        if (!known(EmbedBy::kPosition, step.positions[r])) {
            fail("step: position " + std::to_string(step.positions[r]) + " is not in the model");
        }
        if (step.segments != nullptr && !known(EmbedBy::kSegment, step.segments[r])) {
            fail("step: segment " + std::to_string(step.segments[r]) + " is not in the model");
        }
    }
    for (size_t s = 0; s < step.num_sequences; ++s) {
        require(step.row_starts[s] < step.row_starts[s + 1], "step", "a sequence without rows");
        require(step.num_cached[s] >= 0, "step", "negative number of cached tokens");
    }
    for (size_t i = 0; i < step.num_outputs; ++i) {
        const int32_t row = step.output_rows[i];
        if (row < 0 || static_cast<size_t>(row) >= step.num_rows) {
            fail("step: output row " + std::to_string(row) + " is not in the step");
        }
    }
    check_blocks(step);
    check_adapters(step);
    check_row_blocks(step);
}

// Blocks of rows part those of each sequence; where no op asks for blocks there need be none.
void Program::check_row_blocks(const StepView& step) {
    if (!needs_row_blocks_) return;
    require(step.block_starts != nullptr, "step",
            "the model attends within blocks, and it has none");
    const int32_t* starts = step.block_starts;
    const size_t n = step.num_row_blocks;
    require(n > 0 && starts[0] == 0 && starts[n] == static_cast<int64_t>(step.num_rows), "step",
            "the blocks do not cover the rows");
    size_t s = 0;
    for (size_t b = 0; b < n; ++b) {
        require(starts[b] < starts[b + 1], "step", "a block without rows");
        while (step.row_starts[s + 1] <= starts[b]) ++s;
        require(starts[b + 1] <= step.row_starts[s + 1], "step",
                "a block that reaches into another sequence");
        std::fill(row_block_.begin() + starts[b], row_block_.begin() + starts[b + 1],
                  static_cast<int32_t>(b));
    }
}

// Every block is in the cache, and what a sequence writes nobody else has in hand: the threads of a
// step write and read side by side.
void Program::check_blocks(const StepView& step) {
    const uint64_t now = ++num_checks_;
    auto each = [&](auto&& function) {
        for (size_t s = 0; s < step.num_sequences; ++s) {
            const auto cached = static_cast<size_t>(step.num_cached[s]);
            const size_t rows = step.row_starts[s + 1] - step.row_starts[s];
            function(step.block_tables + s * step.table_width, cached / kKvBlock,
                     (cached + rows + kKvBlock - 1) / kKvBlock);
        }
    };
    each([&](const int32_t* table, size_t first_written, size_t num_blocks) {
        require(num_blocks <= step.table_width, "step", "a block table is too short");
        // also what the memory for the splits of attention relies on
        require(num_blocks <= limits_.num_kv_blocks, "step", "a sequence longer than the cache");
        for (size_t b = 0; b < num_blocks; ++b) {
            const int32_t block = table[b];
            if (block < 0 || static_cast<size_t>(block) >= limits_.num_kv_blocks) {
                fail("step: block " + std::to_string(block) + " is not in the cache");
            }
            if (b < first_written) continue;
            if (written_in_[block] == now) {
                fail("step: block " + std::to_string(block) + " is written twice");
            }
            written_in_[block] = now;
        }
    });
    each([&](const int32_t* table, size_t first_written, size_t) {
        for (size_t b = 0; b < first_written; ++b) {
            if (written_in_[table[b]] == now) {
                fail("step: block " + std::to_string(table[b]) +
                     " is written and belongs to another part of the context");
            }
        }
    });
}

}  // namespace tektra
