// The sampler as Python sees it: the same class as
// tektra.engine.reference_sampler.ReferenceSampler. Turns parameters and errors over; knows nothing
// of how tokens are chosen.

#include "tektra/sampler.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tektra/kernel_table.h"
#include "tektra/philox.h"

namespace nb = nanobind;

namespace tektra {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename... Args>
[[noreturn]] void raise(const char* error, Args&&... args) {
    const nb::object type = nb::module_::import_("tektra.errors").attr(error);
    const nb::object instance = type(std::forward<Args>(args)...);
    PyErr_SetObject(type.ptr(), instance.ptr());
    throw nb::python_error();
}

[[noreturn]] void raise_parameter(const char* name, const std::string& message) {
    raise("InvalidParameterError", name, message);
}

// Scratch memory and the lock that lets several samplers share it.
struct SharedScratch {
    SamplerScratch memory;
    std::mutex in_use;
};

template <typename T>
T setting(nb::handle params, const char* name) {
    return nb::cast<T>(params.attr(name));
}

SamplerConfig config_from(nb::handle params, std::uint64_t seed) {
    SamplerConfig config;
    config.seed = seed;
    config.temperature = setting<double>(params, "temperature");
    config.top_k = setting<std::int32_t>(params, "top_k");
    config.top_p = setting<double>(params, "top_p");
    config.min_p = setting<double>(params, "min_p");
    config.typical_p = setting<double>(params, "typical_p");
    config.repetition_penalty = setting<double>(params, "repetition_penalty");
    config.presence_penalty = setting<double>(params, "presence_penalty");
    config.frequency_penalty = setting<double>(params, "frequency_penalty");
    config.penalty_last_n = setting<std::int32_t>(params, "penalty_last_n");
    config.dry_multiplier = setting<double>(params, "dry_multiplier");
    config.dry_base = setting<double>(params, "dry_base");
    config.dry_allowed_length = setting<std::int32_t>(params, "dry_allowed_length");
    config.dry_penalty_last_n = setting<std::int32_t>(params, "dry_penalty_last_n");
    config.xtc_probability = setting<double>(params, "xtc_probability");
    config.xtc_threshold = setting<double>(params, "xtc_threshold");
    config.mirostat = setting<std::int32_t>(params, "mirostat");
    config.mirostat_tau = setting<double>(params, "mirostat_tau");
    config.mirostat_eta = setting<double>(params, "mirostat_eta");
    config.logprobs = params.attr("logprobs").is_none() ? -1 : setting<int>(params, "logprobs");
    return config;
}

// Token ids from a sequence or an array of integers.
std::vector<std::int32_t> ids_from(const char* name, nb::handle tokens, std::size_t vocab_size) {
    const nb::object list =
        nb::hasattr(tokens, "tolist") ? tokens.attr("tolist")() : nb::borrow(tokens);
    std::vector<std::int32_t> ids;
    if (!nb::isinstance<nb::iterable>(list)) raise_parameter(name, "must be a list of token ids");
    ids.reserve(nb::len_hint(list));
    for (nb::handle item : list) {
        long long id = 0;
        if (nb::isinstance<nb::bool_>(item) || !nb::try_cast<long long>(item, id)) {
            raise_parameter(name, "must be a list of token ids");
        }
        if (id < 0 || static_cast<unsigned long long>(id) >= vocab_size) {
            raise_parameter(name, "token " + std::to_string(id) + " is not in the vocabulary of " +
                                      std::to_string(vocab_size) + " tokens");
        }
        ids.push_back(static_cast<std::int32_t>(id));
    }
    return ids;
}

class NativeSampler {
  public:
    NativeSampler(nb::object params, long long vocab_size, nb::object seed, nb::object breaker_ids,
                  std::shared_ptr<SharedScratch> scratch, const std::string& isa)
        : scratch_(scratch ? std::move(scratch) : std::make_shared<SharedScratch>()),
          result_type_(nb::module_::import_("tektra.engine.sampling_params").attr("Sampled")) {
        if (vocab_size < 1 || vocab_size > INT32_MAX) {
            raise_parameter("vocab_size", std::to_string(vocab_size) + " is not a vocabulary");
        }
        std::uint64_t seed_bits = 0;
        if (!nb::try_cast<std::uint64_t>(seed, seed_bits)) {
            raise_parameter("seed",
                            std::string(nb::str(seed).c_str()) + " is not from 0 to 2^64-1");
        }
        params.attr("check_vocab")(vocab_size);
        reports_ = !params.attr("logprobs").is_none();
        const auto vocab = static_cast<std::size_t>(vocab_size);
        const std::vector<std::int32_t> breakers = ids_from("breaker_ids", breaker_ids, vocab);
        std::vector<std::int32_t> bias_ids;
        std::vector<double> bias_values;
        const nb::object bias = params.attr("logit_bias");
        if (!bias.is_none()) {
            for (nb::handle item : bias.attr("items")()) {
                bias_ids.push_back(nb::cast<std::int32_t>(item[0]));
                bias_values.push_back(nb::cast<double>(item[1]));
            }
        }
        try {
            sampler_.emplace(kernel_table(isa.c_str()).sampling, vocab,
                             config_from(params, seed_bits), bias_ids, bias_values, breakers);
        } catch (const std::invalid_argument& error) {
            raise_parameter("params", error.what());
        }
    }

    void accept(nb::handle tokens) {
        sampler_->accept_many(ids_from("tokens", tokens, sampler_->vocab_size()));
    }

    nb::object sample(nb::handle logits, nb::handle mask, nb::handle suppressed) {
        const std::size_t vocab = sampler_->vocab_size();
        Logits row;
        if (!nb::try_cast<Logits>(logits, row, false) || row.size() != vocab) {
            raise_parameter("logits",
                            "must be a contiguous float32 [" + std::to_string(vocab) + "]");
        }
        Mask words;
        const std::size_t num_words = (vocab + 31) / 32;
        if (!mask.is_none() &&
            (!nb::try_cast<Mask>(mask, words, false) || words.size() < num_words)) {
            raise_parameter("mask",
                            "must be a contiguous uint32 [" + std::to_string(num_words) + "]");
        }
        const std::vector<std::int32_t> ids = ids_from("suppressed", suppressed, vocab);

        Sampled sampled{};
        try {
            nb::gil_scoped_release release;
            std::lock_guard lock(scratch_->in_use);
            sampled = sampler_->sample(row.data(), vocab, mask.is_none() ? nullptr : words.data(),
                                       ids.data(), ids.size(), scratch_->memory);
        } catch (const NoTokenLeft& error) {
            raise("RequestError", error.what(),
                  nb::arg("remedy") = "loosen the grammar, logit_bias or stop settings");
        } catch (const std::runtime_error& error) {
            raise("BackendError", error.what());
        }
        nb::list top;
        for (std::size_t i = 0; i < sampled.top_ids.size(); ++i) {
            top.append(nb::make_tuple(sampled.top_ids[i], sampled.top_logprobs[i]));
        }
        const nb::object logprob = reports_ ? nb::object(nb::float_(sampled.logprob)) : nb::none();
        return result_type_(sampled.token, logprob, nb::tuple(top));
    }

    std::uint64_t num_generated() const { return sampler_->num_generated(); }

  private:
    std::optional<Sampler> sampler_;
    std::shared_ptr<SharedScratch> scratch_;
    nb::object result_type_;
    bool reports_ = false;
};

}  // namespace

void bind_sampler(nb::module_& m) {
    m.def(
        "sampler_uniform",
        [](std::uint64_t seed, std::uint64_t index, std::uint32_t purpose) {
            return uniform(seed, index, static_cast<RandomPurpose>(purpose));
        },
        nb::arg("seed"), nb::arg("index"), nb::arg("purpose"),
        "The random number that a sampler uses; see tektra.engine.reference_sampler.uniform.");
    nb::class_<SharedScratch>(m, "SamplerScratch", "Working memory that samplers may share.")
        .def(nb::init<>());
    nb::class_<NativeSampler>(m, "NativeSampler", "Samples the tokens of one request.")
        .def(nb::init<nb::object, long long, nb::object, nb::object, std::shared_ptr<SharedScratch>,
                      const std::string&>(),
             nb::arg("params"), nb::arg("vocab_size"), nb::kw_only(), nb::arg("seed").none(),
             nb::arg("breaker_ids").none() = nb::make_tuple(),
             nb::arg("scratch").none() = nb::none(), nb::arg("isa") = "")
        .def_prop_ro("num_generated", &NativeSampler::num_generated)
        .def("accept", &NativeSampler::accept, nb::arg("tokens").none())
        .def("sample", &NativeSampler::sample, nb::arg("logits").none(), nb::kw_only(),
             nb::arg("mask") = nb::none(), nb::arg("suppressed").none() = nb::make_tuple());
}

}  // namespace tektra
