// Python's view of byte-level BPE. No logic lives here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bindings.h"
#include "tektra/byte_pairs.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tektra {
namespace {

using Array = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::string_view view(const Array& array) {
    return {reinterpret_cast<const char*>(array.data()), array.size()};
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
    nb::class_<BytePairs>(m, "BytePairs", "Byte-level BPE; see native/include/tektra/byte_pairs.h.")
        .def(
            "__init__",
            [](BytePairs* self, const Array& tokens, size_t num_tokens, const Array& merges,
               size_t num_merges, int32_t words, bool ignore_merges) {
                nb::gil_scoped_release released;
                new (self) BytePairs(view(tokens), num_tokens, view(merges), num_merges,
                                     static_cast<Words>(words), ignore_merges);
            },
            "tokens"_a, "num_tokens"_a, "merges"_a, "num_merges"_a, "words"_a, "ignore_merges"_a)
        .def(
            "encode",
            [](const BytePairs& self, std::string_view text) {
                std::optional<std::vector<int32_t>> ids(std::in_place);
                nb::gil_scoped_release released;
                if (!self.encode(text, *ids)) ids.reset();
                return ids;
            },
            "text"_a, "Tokens of a text without special ones; None where it is not sure.")
        .def(
            "token",
            [](const BytePairs& self, size_t id) {
                if (id >= self.num_tokens()) throw nb::index_error("no such token");
                return self.token(id);
            },
            "id"_a, "Text of a token, as the vocabulary writes it.")
        .def("id_of", &BytePairs::id_of, "token"_a, "-1 where there is no such token.")
        .def("__len__", &BytePairs::num_tokens);
    m.def(
        "piece_length",
        [](std::string_view text, int32_t words) {
            if (text.empty() || words < 0 || words >= static_cast<int32_t>(Words::kNumWords)) {
                throw std::invalid_argument("no text, or an unknown way to cut it");
            }
            return piece_length(text, static_cast<Words>(words));
        },
        "text"_a, "words"_a, "Bytes of the first piece of a text; 0 where it is not sure.");
    m.def(
        "char_class", [](uint32_t code_point) { return static_cast<int>(char_class(code_point)); },
        "code_point"_a, "0 other, 1 letter, 2 number, 3 white space, 4 not sure.");
}

}  // namespace tektra
