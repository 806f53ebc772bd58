// Python's view of the encoder of weights. No logic lives here.
#include "tektra/encoder.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tektra {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

}  // namespace

void bind_encoder(nb::module_& m) {
    nb::class_<Encoder>(m, "Encoder", "See native/include/tektra/encoder.h.")
        .def(
            "__init__",
            [](Encoder* self, const std::string& isa, size_t num_threads) {
                if (num_threads < 1 || num_threads > 1024) {
                    throw std::invalid_argument("1 to 1024 threads are possible");
                }
                new (self) Encoder(kernel_table(isa.c_str()), num_threads);
            },
            "isa"_a, "num_threads"_a)
        .def("row_bytes", &Encoder::row_bytes, "type"_a, "width"_a,
             "Bytes of an encoded row; 0 where there is no kernel, or the width does not fit it.")
        .def(
            "encode",
            [](Encoder& self, int32_t type, int32_t source, const Bytes& rows, size_t width,
               std::optional<Floats> importance, const Output& out) {
                const size_t item = source == static_cast<int32_t>(WeightType::F32) ? 4 : 2;
                const size_t row_bytes = self.row_bytes(type, width);
                if (row_bytes == 0) throw std::invalid_argument("no encoder for this type");
                const size_t num_rows = rows.size() / (width * item);
                if (num_rows * width * item != rows.size() || num_rows * row_bytes != out.size() ||
                    (importance && importance->size() != width)) {
                    throw std::invalid_argument("the arrays do not fit together");
                }
                nb::gil_scoped_release released;
                return static_cast<int>(
                    self.run(type, static_cast<WeightType>(source), rows.data(), num_rows, width,
                             importance ? importance->data() : nullptr, out.data()));
            },
            "type"_a, "source"_a, "rows"_a, "width"_a, "importance"_a.none(), "out"_a,
            "Encodes rows; 0: done, 1: an element is not finite, 2: a scale is too large.");
}

}  // namespace tektra
