// A compiled model: packed weights, a paged cache, an arena for activations, and a flat list of ops
// that is walked once a step. It is built through the add_ functions by whoever lowers a graph; it
// knows neither architectures nor requests.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tektra/kernel_table.h"
#include "tektra/memory.h"
#include "tektra/thread_pool.h"

namespace tektra {

enum class OpCode : int32_t {
    kEmbed,      // out; matrix; ints: EmbedBy
    kQuantize,   // in -> out (quantized rows); ints: terms (2: each row, then its rounding error)
    kLinear,     // in, [addend] -> outs; matrices, biases (vector or -1); ints: has addend, terms
    kRmsNorm,    // in -> out; vector; ints: group; floats: eps
    kLayerNorm,  // in -> out; vectors weight, bias or -1; floats: eps
    kRopeTable,  // out (cos and sin of each row); frequencies
    kRope,       // in, table -> out; ints: head_dim, dim, half layout
    kAttention,  // q, k, v -> out; sinks vector or -1; ints, floats: see AttentionNumbers
    kActivate,   // in -> out; ints: ActivationKind
    kGated,      // gate, up -> out; ints: ActivationKind
    kAdd,        // a, b -> out
    kMul,        // a, b -> out
    kScale,      // in -> out; floats: factor
    kSoftcap,    // in -> out; floats: cap
    kSelect,     // in -> out
    // what is only read by quantized linears is quantized as it is made
    kRmsNormQuantize,  // in -> out (quantized rows); vector; ints: terms, group; floats: eps
    kGatedQuantize,    // gate, up -> out (quantized rows); ints: terms, ActivationKind
    kColumns,          // in -> out (neighbouring columns of it); ints: the first
    kMoe,              // x for gate, x for up, logits -> out, work; see MoeNumbers
    kNumOpCodes,
};

const char* op_name(OpCode code);

enum class Rows : int32_t { kTokens, kOutputs };

// Which number of a row says what it looks up in a table.
enum class EmbedBy : int32_t { kToken, kPosition, kSegment, kNum };

struct Op {
    OpCode code;
    std::vector<int32_t> in;       // buffers
    std::vector<int32_t> out;      // buffers
    std::vector<int32_t> weights;  // matrices, vectors or frequencies, by op
    std::vector<int64_t> ints;
    std::vector<float> floats;
};

struct Limits {
    size_t num_threads;
    size_t max_rows;
    size_t max_outputs;
    size_t num_kv_blocks;
};

// One ragged batch; see Step in backends/base.py for what the arrays mean.
struct StepView {
    size_t num_rows;
    size_t num_sequences;
    size_t num_outputs;
    size_t table_width;  // entries in a row of block_tables
    const int32_t* token_ids;
    const int32_t* positions;
    const int32_t* row_starts;
    const int32_t* num_cached;
    const int32_t* block_tables;
    const int32_t* output_rows;
    const int32_t* segments;  // or null: zeros
    size_t num_adapters = 0;  // columns of the two below
    const int32_t* adapters = nullptr;
    const float* adapter_scales = nullptr;
    size_t num_row_blocks = 0;
    const int32_t* block_starts = nullptr;  // [num_row_blocks + 1]; null: none
};

struct AttentionNumbers;
struct MoeNumbers;

// What an adapter adds to one output of a linear op: scale * b (a x), where the rows of `a` are the
// next `rank` of those that all its factors of the op have together.
struct LoraFactor {
    size_t out;  // which output of the op
    size_t rank;
    float scale;
    const uint8_t* b;  // rows of the file's form: [rows of the matrix, rank]
    size_t num_bytes;
};

// Time spent in one op, over all runs.
struct OpTime {
    double seconds;
    uint64_t calls;
};

// One thread at a time may build or run a program: another one is refused, by std::runtime_error.
class Program {
  public:
    // Throws std::system_error where the threads cannot be had.
    Program(const KernelTable& kernels, const Limits& limits);

    // Building, which ends with `finish`. Each returns the id that ops refer to. Throws
    // std::invalid_argument for what does not fit together, std::bad_alloc where memory ends.
    // Room for so many bytes of packed matrices side by side, so that small ones too lie in large
    // pages. What does not fit any more gets pages of its own.
    void reserve_matrices(size_t bytes);
    // With `count`, so many matrices of one shape, which are one matrix of a mixture of experts.
    int32_t add_matrix(WeightType type, size_t rows, size_t width, size_t count = 1);
    // Fills a matrix from the rows of the file, on all threads.
    void pack_matrix(int32_t matrix, const uint8_t* rows, size_t num_bytes);
    // A matrix that is packed already, by kernels of the same `packed_layout`: as many bytes as
    // `LinearKernel::matrix_bytes` says, at a multiple of 64.
    int32_t adopt_matrix(WeightType type, size_t rows, size_t width, Memory packed,
                         size_t count = 1);
    // Fills a matrix with bytes as `adopt_matrix` takes them, on all threads.
    void copy_matrix(int32_t matrix, const uint8_t* packed, size_t num_bytes);
    // The packed bytes of a matrix. They stay as they are; whoever reads them longer than the
    // program is there holds their owner.
    const Memory& packed_matrix(int32_t matrix);
    int32_t add_vector(const float* values, size_t n);
    // Radians per position of each rotated pair, and the factor on cosine and sine.
    int32_t add_frequencies(const double* values, size_t n, double magnitude);
    // The cache of the next attention layer; returns the layer.
    int32_t add_cache(size_t num_kv_heads, size_t head_dim, size_t value_dim,
                      KvType type = KvType::kF16);
    // A matrix of activations in the arena, `stride` bytes from row to row.
    int32_t add_buffer(size_t offset, size_t stride, size_t width, Rows rows);
    void add_op(Op op);
    void finish(size_t arena_bytes);

    // Runs the first `num_ops` ops on a step; std::invalid_argument for a step that is not
    // well-formed, before anything is computed.
    void run(const StepView& step, size_t num_ops);

    // Adapters of low rank (LoRA), of a finished program, between its runs. Ids are never given
    // twice. An adapter is empty at first; `add_factors` says what it adds to one linear op. Throws
    // std::invalid_argument for what does not fit the op, std::bad_alloc where memory ends.
    int32_t add_adapter();
    // `a` holds the `a` of all factors, one below the other: [sum of ranks, width] of `type`, which
    // is one of the float types.
    void add_factors(int32_t adapter, size_t op, WeightType type, const uint8_t* a,
                     size_t num_bytes, const std::vector<LoraFactor>& factors);
    void remove_adapter(int32_t adapter);
    size_t adapter_bytes() const;

    // Output rows of a buffer, as the last run left them.
    struct Result {
        const float* rows;
        size_t stride;  // floats
        size_t width;
    };
    // std::invalid_argument for a buffer that has no output rows of floats.
    Result result(int32_t buffer) const;

    // Frees all memory but that of results, which stay as they are. It cannot run any more.
    void release();

    // Whether runs of a finished program measure how long their ops take. It starts at zero when
    // it is turned on.
    void set_profiling(bool on);
    // Of each op, in their order; empty until profiling was on once.
    const std::vector<OpTime>& profile() const { return profile_; }

    size_t num_ops() const { return ops_.size(); }
    OpCode code(size_t op) const { return ops_[op].code; }

    const char* isa() const { return kernels_.name; }
    size_t weight_bytes() const;
    size_t cache_bytes() const;
    size_t activation_bytes() const;

  private:
    struct Matrix {
        WeightType type;
        size_t rows, width, count, num_groups;  // groups of each of the `count` matrices
        Memory packed;
    };
    struct Frequencies {
        std::vector<double> values;
        double magnitude;
    };
    struct Buffer {
        size_t offset, stride, width;
        Rows rows;
    };
    struct Chunk {  // a share of a linear op: groups of one of its matrices
        int32_t which;
        size_t begin, end;
    };

    struct ExpertTask {  // groups of the matrix of one expert, for all rows that it gets
        int32_t which, expert;
        size_t begin, end;
    };

    struct AttentionTile {  // neighbouring rows of one sequence, and the splits that they see
        size_t row, num_rows;
        size_t first_split, end_split;
    };

    struct LoraLinear {  // what an adapter adds to one op, packed
        struct Factor {
            size_t out, rank;
            size_t first;  // row of `a` where its own begin
            float scale;
            Memory b;
        };
        WeightType type;
        size_t rank;  // of all factors
        Memory a;
        std::vector<Factor> factors;
    };
    struct Adapter {
        std::vector<std::unique_ptr<LoraLinear>> linears;  // of each op, or null
    };
    struct LoraTile {  // rows of a step that have one adapter
        const Adapter* adapter;
        size_t first, end;  // of `rows`, `scales` and `hidden`
    };
    struct LoraPlan {  // of a step, for the rows of one row space
        std::vector<int32_t> rows;
        std::vector<float> scales;
        std::vector<LoraTile> tiles;
        std::vector<size_t> rounds;  // tiles up to these add the first, second... of each row
    };

    // Refuses a second thread, for as long as it lives.
    class Exclusive {
      public:
        explicit Exclusive(std::atomic<bool>& busy);
        ~Exclusive() { busy_.store(false, std::memory_order_release); }
        Exclusive(const Exclusive&) = delete;
        Exclusive& operator=(const Exclusive&) = delete;

      private:
        std::atomic<bool>& busy_;
    };

    const LinearKernel& kernel_of(const Matrix& matrix) const {
        return kernels_.linear[static_cast<int>(matrix.type)];
    }
    uint8_t* row(int32_t buffer, size_t index) const {
        const Buffer& b = buffers_[buffer];
        return arena_.data() + b.offset + index * b.stride;
    }
    float* floats(int32_t buffer, size_t index) const {
        return reinterpret_cast<float*>(row(buffer, index));
    }
    // Keys of a kv head in a block of the cache; its values follow.
    uint8_t* kv_head(const KvShape& shape, size_t block, size_t head) const {
        return cache_.data() + block * cache_block_bytes_ + shape.offset +
               head * shape.head_bytes();
    }
    size_t count(int32_t buffer, const StepView& step) const {
        return buffers_[buffer].rows == Rows::kTokens ? step.num_rows : step.num_outputs;
    }

    // std::invalid_argument where there is none, or the shape is not one of its type.
    const LinearKernel& kernel_for(WeightType type, size_t rows, size_t width, size_t count) const;
    void check_building() const;
    void check_op(const Op& op) const;
    void check_step(const StepView& step);
    void check_blocks(const StepView& step);
    void check_row_blocks(const StepView& step);
    void run_op(size_t index, const StepView& step);
    void run_linear(size_t index, const StepView& step);
    void run_quantize(const Op& op, const StepView& step);
    // One row and, with two terms, what the first has rounded away; `rest` has room for a row.
    void quantize_row(const float* x, size_t width, size_t terms, uint8_t* to, size_t stride,
                      float* rest) const;
    float* row_scratch(size_t thread) const {
        return reinterpret_cast<float*>(row_scratch_.data()) + thread * row_scratch_floats_;
    }
    void run_attention(const Op& op, const StepView& step);
    void run_moe(const Op& op, const StepView& step);
    void plan_experts(const Op& op, size_t num_experts, int first, int last);
    void check_moe(const Op& op) const;
    MoeNumbers moe_numbers(const Op& op) const;
    void check_adapters(const StepView& step) const;
    void plan_adapters(const StepView& step);
    void run_adapters(size_t index);
    void write_cache(const Op& op, const StepView& step);
    template <class SpanOf>
    size_t tile_rows(const AttentionNumbers& a, const StepView& step, const SpanOf& span_of);
    // Calls function(row, thread) for each row, on all threads where there is enough to do.
    template <class Function>
    void each_row_on(size_t num_rows, size_t width, const Function& function);
    // The same without the thread.
    template <class Function>
    void each_row(size_t num_rows, size_t width, const Function& function) {
        each_row_on(num_rows, width, [&](size_t row, size_t) { function(row); });
    }

    const KernelTable& kernels_;
    const Limits limits_;
    ThreadPool pool_;
    Memory room_;  // for matrices; its first bytes are taken
    size_t room_taken_ = 0;
    std::vector<Matrix> matrices_;
    std::vector<std::vector<float>> vectors_;
    std::vector<Frequencies> frequencies_;
    std::vector<KvShape> caches_;  // of each layer
    std::vector<Buffer> buffers_;
    std::vector<Op> ops_;
    std::vector<std::vector<Chunk>> chunks_;  // of each op; empty but for linear ones
    std::vector<int32_t> row_sequence_;       // of the step: which sequence a row belongs to
    std::vector<int32_t> row_block_;          // of the step: which block a row belongs to
    bool needs_row_blocks_ = false;
    std::vector<uint64_t> written_in_;  // of each cache block: the check that saw it written
    uint64_t num_checks_ = 0;
    size_t table_rows_[static_cast<size_t>(EmbedBy::kNum)] = {};  // of the smallest table of a kind
    std::vector<OpTime> profile_;
    bool profiling_ = false;
    std::atomic<bool> busy_{false};
    Memory arena_;
    Memory cache_;
    size_t cache_block_bytes_ = 0;  // of all layers
    Memory row_scratch_;            // per thread: two rows of floats
    Memory attention_scratch_;      // per thread
    Memory attention_partials_;     // per row, head and split
    size_t row_scratch_floats_ = 0;
    size_t attention_scratch_floats_ = 0;
    std::vector<AttentionTile> tiles_;  // of the attention op that runs
    // of the mixture of experts that runs: where the rows of each expert begin, which rows these
    // are, and the tasks
    std::vector<size_t> expert_begin_;
    std::vector<int32_t> expert_rows_;
    std::vector<ExpertTask> expert_tasks_;
    std::vector<float> expert_scores_;  // per thread
    size_t expert_stride_ = 0;
    std::vector<std::unique_ptr<Adapter>> adapters_;  // by id; null where one was removed
    LoraPlan lora_[2];                                // of the step: token rows, output rows
    bool adapting_ = false;                           // whether a row of the step has an adapter
    Memory lora_hidden_;                              // a x of each row of a plan
    Memory lora_scratch_;                             // per thread
    size_t lora_scratch_floats_ = 0;
    size_t lora_rank_ = 0;  // largest of all factors of an op
    bool finished_ = false;
    bool released_ = false;
};

template <class Function>
void Program::each_row_on(size_t num_rows, size_t width, const Function& function) {
    // below so many elements waking anybody is not worth it
    constexpr size_t kParallelElements = 16 * 1024;
    if (num_rows * width < kParallelElements || pool_.num_threads() == 1) {
        for (size_t r = 0; r < num_rows; ++r) function(r, 0);
        return;
    }
    const size_t share = std::max<size_t>(1, num_rows / (4 * pool_.num_threads()));
    pool_.run((num_rows + share - 1) / share, [&](size_t task, size_t thread) {
        const size_t end = std::min(num_rows, (task + 1) * share);
        for (size_t r = task * share; r < end; ++r) function(r, thread);
    });
}

}  // namespace tektra
