// Python's view of the core: a Program that is built once and run step by step. The GIL is released
// round everything that takes time. No logic lives here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "../core/attention_plan.h"
#include "bindings.h"
#include "tektra/cpu_features.h"
#include "tektra/machine_peaks.h"
#include "tektra/program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tektra {
namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = Vector<int32_t>;
using Table = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using released = nb::call_guard<nb::gil_scoped_release>;
using Bytes = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;
using Output = nb::ndarray<nb::numpy, const float, nb::ndim<2>>;

// Runs the first `num_ops` ops and returns the output rows of `buffer`, which belong to the
// program and are overwritten by the next run.
Output run(nb::handle_t<Program> self, Ints token_ids, Ints positions, Ints row_starts,
           Ints num_cached, Table block_tables, Ints output_rows, size_t num_ops, int32_t buffer,
           std::optional<Ints> segments, std::optional<Table> adapters,
           std::optional<FloatTable> adapter_scales, std::optional<Ints> block_starts) {
    auto& program = nb::cast<Program&>(self);
    const Program::Result result = program.result(buffer);
    const size_t num_sequences = num_cached.shape(0);
    const size_t num_adapters = adapters ? adapters->shape(1) : 0;
    if (positions.shape(0) != token_ids.shape(0) || row_starts.shape(0) != num_sequences + 1 ||
        block_tables.shape(0) != num_sequences ||
        (segments && segments->shape(0) != token_ids.shape(0)) ||
        adapters.has_value() != adapter_scales.has_value() ||
        (adapters &&
         (adapters->shape(0) != num_sequences || adapter_scales->shape(0) != num_sequences ||
          adapter_scales->shape(1) != num_adapters))) {
        throw std::invalid_argument("step: its arrays differ in length");
    }
    if (block_starts && block_starts->shape(0) == 0) {
        throw std::invalid_argument("step: block_starts is empty");
    }
    const StepView step{
        .num_rows = token_ids.shape(0),
        .num_sequences = num_sequences,
        .num_outputs = output_rows.shape(0),
        .table_width = block_tables.shape(1),
        .token_ids = token_ids.data(),
        .positions = positions.data(),
        .row_starts = row_starts.data(),
        .num_cached = num_cached.data(),
        .block_tables = block_tables.data(),
        .output_rows = output_rows.data(),
        .segments = segments ? segments->data() : nullptr,
        .num_adapters = num_adapters,
        .adapters = adapters ? adapters->data() : nullptr,
        .adapter_scales = adapter_scales ? adapter_scales->data() : nullptr,
        .num_row_blocks = block_starts ? block_starts->shape(0) - 1 : 0,
        .block_starts = block_starts ? block_starts->data() : nullptr,
    };
    {
        nb::gil_scoped_release released;
        program.run(step, num_ops);
    }
    const size_t shape[2] = {step.num_outputs, result.width};
    const int64_t strides[2] = {static_cast<int64_t>(result.stride), 1};
    return Output(result.rows, 2, shape, self, strides);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native core of Tektra.";

    m.def(
        "compiled_isas",
        [] {
            const char* const* names;
            const size_t n = compiled_isas(&names);
            return std::vector<std::string>(names, names + n);
        },
        "Names of the instruction sets that were compiled in, worst first.");
    m.def(
        "runs_here", [](const std::string& isa) { return isa_runs_here(isa.c_str()); }, "isa"_a,
        "Whether this machine has the instruction set.");
    m.def(
        "isa",
        [](const std::string& forced) { return std::string(kernel_table(forced.c_str()).name); },
        "forced"_a = "", "The instruction set that is used: the best there is, or `forced`.");
    m.def(
        "cpu_features",
        [] {
            const CpuFeature* features;
            const size_t n = cpu_features(&features);
            std::vector<std::pair<std::string, bool>> out;
            for (size_t i = 0; i < n; ++i) out.emplace_back(features[i].name, features[i].present);
            return out;
        },
        "Features that are looked at, and whether this machine has them.");
    m.def(
        "packed_bytes",
        [](const std::string& isa, int32_t type, size_t rows, size_t width, size_t count) {
            if (type < 0 || type >= kMaxWeightType) return size_t{0};
            const LinearKernel& kernel = kernel_table(isa.c_str()).linear[type];
            if (kernel.lanes == 0 || width % kernel.block_width != 0) return size_t{0};
            return kernel.matrix_bytes(rows, width, count);
        },
        "isa"_a, "type"_a, "rows"_a, "width"_a, "count"_a = 1,
        "Bytes of a packed matrix of a GGUF type id, or of so many of one shape; 0 where there is "
        "no kernel for it.");
    m.def(
        "packed_layout",
        [](const std::string& isa) { return packed_layout(kernel_table(isa.c_str())); }, "isa"_a,
        "Name of how an instruction set lays packed matrices out, with its version.");
    m.def(
        "reads_quantized",
        [](const std::string& isa, int32_t type) {
            return type >= 0 && type < kMaxWeightType &&
                   kernel_table(isa.c_str()).linear[type].quantized_input;
        },
        "isa"_a, "type"_a, "Whether matrices of this type multiply int8 activations.");

    m.def(
        "attention_bytes",
        [](std::vector<int64_t> ints, size_t num_threads, size_t max_rows, size_t num_kv_blocks) {
            if (ints.size() != AttentionNumbers::kNumInts) {
                throw std::invalid_argument("an attention op has nine numbers");
            }
            for (const int64_t value : ints) {
                if (value < 0 || value > INT32_MAX) throw std::invalid_argument("a wrong number");
            }
            if (ints[2] == 0) throw std::invalid_argument("attention needs a kv head");
            const AttentionNumbers a(
                Op{OpCode::kAttention, {}, {}, {}, std::move(ints), {0.0f, 0.0f}});
            const Limits limits{num_threads, max_rows, 0, num_kv_blocks};
            return std::pair(product_of({a.scratch(), num_threads, sizeof(float)}),
                             product_of({a.partials(limits), sizeof(float)}));
        },
        "ints"_a, "num_threads"_a, "max_rows"_a, "num_kv_blocks"_a,
        "Scratch bytes, for the threads and for splits, of an attention op with these numbers.");

    m.def(
        "kv_block_bytes",
        [](size_t num_kv_heads, size_t head_dim, size_t value_dim, int32_t type) {
            constexpr size_t kMost = size_t{1} << 20;
            if (num_kv_heads > kMost || head_dim > kMost || value_dim > kMost || type < 0 ||
                type >= static_cast<int32_t>(kNumKvTypes)) {
                throw std::invalid_argument("no such cache");
            }
            return KvShape{static_cast<KvType>(type), num_kv_heads, head_dim, value_dim, 0}.bytes();
        },
        "num_kv_heads"_a, "head_dim"_a, "value_dim"_a, "type"_a,
        "Bytes of a block of the cache of one layer.");

    nb::class_<Program>(m, "Program", "A compiled model; see native/include/tektra/program.h.")
        .def(
            "__init__",
            [](Program* self, const std::string& isa, size_t num_threads, size_t max_rows,
               size_t max_outputs, size_t num_kv_blocks) {
                new (self) Program(kernel_table(isa.c_str()),
                                   {num_threads, max_rows, max_outputs, num_kv_blocks});
            },
            "isa"_a, "num_threads"_a, "max_rows"_a, "max_outputs"_a, "num_kv_blocks"_a)
        .def("reserve_matrices", &Program::reserve_matrices, "bytes"_a,
             "Makes room for packed matrices side by side.")
        .def(
            "add_matrix",
            [](Program& p, int32_t type, size_t rows, size_t width, size_t count) {
                return p.add_matrix(static_cast<WeightType>(type), rows, width, count);
            },
            "type"_a, "rows"_a, "width"_a, "count"_a = 1)
        .def(
            "pack_matrix",
            [](Program& p, int32_t matrix, Vector<uint8_t> rows) {
                nb::gil_scoped_release released;
                p.pack_matrix(matrix, rows.data(), rows.size());
            },
            "matrix"_a, "rows"_a)
        .def(
            "adopt_matrix",
            [](Program& p, int32_t type, size_t rows, size_t width, Vector<uint8_t> packed,
               size_t count) {
                return p.adopt_matrix(
                    static_cast<WeightType>(type), rows, width,
                    {packed.data(), packed.size(), std::make_shared<Vector<uint8_t>>(packed)},
                    count);
            },
            "type"_a, "rows"_a, "width"_a, "packed"_a, "count"_a = 1,
            "Adds a matrix that is packed already; its bytes are used where they are.")
        .def(
            "copy_matrix",
            [](Program& p, int32_t matrix, Vector<uint8_t> packed) {
                nb::gil_scoped_release released;
                p.copy_matrix(matrix, packed.data(), packed.size());
            },
            "matrix"_a, "packed"_a, "Fills a matrix with bytes that are packed already.")
        .def(
            "packed_matrix",
            [](Program& p, int32_t matrix) {
                const Memory& packed = p.packed_matrix(matrix);
                using Owner = std::shared_ptr<const void>;
                const nb::capsule owner(new Owner(packed.owner()), [](void* held) noexcept {
                    delete static_cast<Owner*>(held);
                });
                return Bytes(packed.data(), {packed.size()}, owner);
            },
            "matrix"_a, "Packed bytes of a matrix, read-only. The array may outlive the program.")
        .def(
            "add_vector",
            [](Program& p, Vector<float> values) {
                return p.add_vector(values.data(), values.size());
            },
            "values"_a)
        .def(
            "add_frequencies",
            [](Program& p, Vector<double> values, double magnitude) {
                return p.add_frequencies(values.data(), values.size(), magnitude);
            },
            "values"_a, "magnitude"_a)
        .def(
            "add_cache",
            [](Program& p, size_t num_kv_heads, size_t head_dim, size_t value_dim, int32_t type) {
                return p.add_cache(num_kv_heads, head_dim, value_dim, static_cast<KvType>(type));
            },
            "num_kv_heads"_a, "head_dim"_a, "value_dim"_a, "type"_a = 0)
        .def(
            "add_buffer",
            [](Program& p, size_t offset, size_t stride, size_t width, bool outputs) {
                return p.add_buffer(offset, stride, width,
                                    outputs ? Rows::kOutputs : Rows::kTokens);
            },
            "offset"_a, "stride"_a, "width"_a, "outputs"_a)
        .def(
            "add_op",
            [](Program& p, int32_t code, std::vector<int32_t> in, std::vector<int32_t> out,
               std::vector<int32_t> weights, std::vector<int64_t> ints, std::vector<float> floats) {
                p.add_op({static_cast<OpCode>(code), std::move(in), std::move(out),
                          std::move(weights), std::move(ints), std::move(floats)});
            },
            "code"_a, "inputs"_a, "outputs"_a, "weights"_a, "ints"_a, "floats"_a)
        .def("finish", &Program::finish, "arena_bytes"_a)
        .def("run", &run, "token_ids"_a, "positions"_a, "row_starts"_a, "num_cached"_a,
             "block_tables"_a, "output_rows"_a, "num_ops"_a, "buffer"_a, "segments"_a = nb::none(),
             "adapters"_a = nb::none(), "adapter_scales"_a = nb::none(),
             "block_starts"_a = nb::none())
        .def("add_adapter", &Program::add_adapter, "Adds an empty adapter and returns its id.")
        .def(
            "add_factors",
            [](Program& p, int32_t adapter, size_t op, int32_t type, Vector<uint8_t> a,
               const std::vector<std::tuple<size_t, size_t, float, Vector<uint8_t>>>& factors) {
                std::vector<LoraFactor> list;
                for (const auto& [out, rank, scale, b] : factors) {
                    list.push_back({out, rank, scale, b.data(), b.size()});
                }
                p.add_factors(adapter, op, static_cast<WeightType>(type), a.data(), a.size(), list);
            },
            "adapter"_a, "op"_a, "type"_a, "a"_a, "factors"_a,
            "What an adapter adds to a linear op; factors are (output, rank, scale, b).")
        .def("remove_adapter", &Program::remove_adapter, "adapter"_a)
        .def_prop_ro("adapter_bytes", &Program::adapter_bytes)
        .def("release", &Program::release,
             "Frees all memory but that of results; the program cannot run any more.")
        .def("set_profiling", &Program::set_profiling, "on"_a,
             "Whether runs measure their ops; what was measured before is forgotten.")
        .def_prop_ro(
            "profile",
            [](const Program& p) {
                std::vector<std::tuple<std::string, double, uint64_t>> out;
                const size_t n = std::min(p.profile().size(), p.num_ops());
                for (size_t i = 0; i < n; ++i) {
                    const OpTime& time = p.profile()[i];
                    out.emplace_back(op_name(p.code(i)), time.seconds, time.calls);
                }
                return out;
            },
            "(kind, seconds, calls) of each op, over the runs since profiling was turned on.")
        .def_prop_ro("num_ops", &Program::num_ops)
        .def_prop_ro("isa", [](const Program& p) { return std::string(p.isa()); })
        .def_prop_ro("weight_bytes", &Program::weight_bytes)
        .def_prop_ro("cache_bytes", &Program::cache_bytes)
        .def_prop_ro("activation_bytes", &Program::activation_bytes);

    nb::class_<MachinePeaks>(
        m, "MachinePeaks",
        "Samples of what this machine can do; see native/include/tektra/machine_peaks.h.")
        .def(
            "__init__",
            [](MachinePeaks* self, const std::string& isa, size_t num_threads,
               size_t buffer_bytes) {
                new (self) MachinePeaks(kernel_table(isa.c_str()), num_threads, buffer_bytes);
            },
            "isa"_a, "num_threads"_a, "buffer_bytes"_a)
        .def("read_bytes_per_second", &MachinePeaks::read_bytes_per_second, released())
        .def("int8_per_second", &MachinePeaks::int8_per_second, released())
        .def("float_per_second", &MachinePeaks::float_per_second, released())
        .def("loop_seconds", &MachinePeaks::loop_seconds, released())
        .def("meeting_seconds", &MachinePeaks::meeting_seconds, released())
        .def_prop_ro("isa", [](const MachinePeaks& p) { return std::string(p.isa()); })
        .def_prop_ro("num_threads", &MachinePeaks::num_threads);

    bind_sampler(m);
    bind_tokenizer(m);
    bind_encoder(m);
}

}  // namespace tektra
