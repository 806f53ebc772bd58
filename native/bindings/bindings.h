// The parts of the extension module that live in files of their own.
#pragma once

#include <nanobind/nanobind.h>

namespace tektra {

void bind_sampler(nanobind::module_& m);
void bind_tokenizer(nanobind::module_& m);
void bind_encoder(nanobind::module_& m);

}  // namespace tektra
