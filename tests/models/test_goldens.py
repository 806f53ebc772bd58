"""Logits of small random decoders against transformers: every variant, form and backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backends.tolerances import TOLERANCES
from tests.models.page import Measured
from tests.models.small_models import FLOAT16_TOLERANCE, FLOAT32_TOLERANCE, FORMS, MODELS, Form

from tektra.backends.base import Backend
from tektra.backends.reference import ReferenceBackend

EXACT = ReferenceBackend(kv_dtype="float32")


@pytest.mark.parametrize("name", MODELS)
def test_seed_makes_the_same_model(name: str) -> None:
    made, golden = MODELS[name].fingerprints()
    assert made == golden, "the random generator changed: run `make goldens`"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_float32_cache(
    name: str, form: Form, tmp_path: Path, record_error: Callable[[Measured], None]
) -> None:
    error = MODELS[name].error(EXACT, form, tmp_path)
    record_error(MODELS[name].measured(form, "reference, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_float32_cache_of_other_backends(
    name: str,
    form: Form,
    other_backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = MODELS[name].error(other_backend, form, tmp_path, kv_type="f32")
    record_error(MODELS[name].measured(form, f"{other_backend.name}, f32", error))
    int8 = MODELS[name].rounds_rows(form)
    assert error < (TOLERANCES["moe-int8"].largest if int8 else FLOAT32_TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_each_backend(
    name: str,
    form: Form,
    backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = MODELS[name].error(backend, form, tmp_path)
    record_error(MODELS[name].measured(form, f"{backend.name}, f16", error))
    int8 = MODELS[name].rounds_rows(form)
    assert error < (TOLERANCES["moe-int8"].largest if int8 else FLOAT16_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama-linear", "llama.rope.scaling.factor", 3.9),
        ("llama-yarn", "llama.rope.scaling.type", "linear"),
        ("llama-yarn", "llama.rope.scaling.original_context_length", 64),
        ("llama-yarn-tuned", "llama.rope.scaling.yarn_attn_factor", 0.72),
        ("llama-yarn-tuned", "llama.rope.scaling.yarn_beta_fast", 32.0),
        ("llama-theta", "llama.rope.freq_base", 4.9e5),
        ("llama-bias", "llama.attention.layer_norm_rms_epsilon", 1e-6),
        ("qwen2-mha", "qwen2.rope.freq_base", 9e5),
        ("gemma3-tied", "gemma3.attention.sliding_window", 15),
        ("gemma3-tied", "gemma3.rope.freq_base_swa", 1.1e4),
        ("gemma3-linear", "gemma3.rope.scaling.factor", 7.0),
        ("gemma3-other", "gemma3.attention.scale", 0.21),
        ("gemma3-other", "gemma3.attention.sliding_window_pattern", [False, True, False, False]),
        ("gemma3-other", "gemma3.final_logit_softcapping", 5.0),
        ("gemma2-capped", "gemma2.attn_logit_softcapping", 2.1),
        ("gemma2-capped", "gemma2.final_logit_softcapping", 6.1),
        ("gemma2-capped", "gemma2.attention.sliding_window", 17),
        ("gemma-other", "gemma.attention.layer_norm_rms_epsilon", 1e-6),
        ("qwen3-window", "qwen3.attention.sliding_window", 13),
        ("qwen3-window", "qwen3.attention.sliding_window_pattern", 2),
        ("phi3-window", "phi3.attention.sliding_window", 11),
        ("phi3-partial", "phi3.rope.dimension_count", 16),
        ("phi3-longrope-long", "phi3.rope.scaling.attn_factor", 1.2),
        ("phi3-longrope-long", "phi3.rope.scaling.original_context_length", 256),
        ("granite-scaled-tied", "granite.embedding_scale", 12.1),
        ("granite-scaled-tied", "granite.residual_scale", 0.23),
        ("granite-scaled-tied", "granite.attention.scale", 0.21),
        ("granite-scaled-tied", "granite.logit_scale", 5.1),
        ("granite-bias", "granite.attention.layer_norm_rms_epsilon", 5e-3),
        ("granite-linear", "granite.rope.scaling.finetuned", False),
        ("olmo3-yarn", "olmo2.attention.sliding_window_pattern", [True, True, False, True, True]),
        ("olmo3-yarn", "olmo2.rope.freq_base_swa", 4e5),
        ("smollm3-tied", "smollm3.rope.freq_base", 1.9e6),
        ("mistral-window", "llama.attention.sliding_window", 13),
        ("mixtral", "llama.expert_used_count", 3),
        ("mixtral", "llama.expert_weights_norm", False),
        ("mixtral", "llama.expert_gating_func", 2),
        ("mixtral", "llama.expert_weights_scale", 1.001),
        ("mixtral-window", "llama.attention.sliding_window", 21),
        ("qwen2moe", "qwen2moe.expert_weights_norm", True),
        ("qwen3moe", "qwen3moe.expert_weights_norm", False),
        ("olmoe", "olmoe.expert_used_count", 5),
        ("gpt-oss", "gpt-oss.attention.sliding_window", 25),
        ("gpt-oss", "gpt-oss.rope.scaling.yarn_truncate", True),
        ("gpt-oss-types", "gpt-oss.attention.sliding_window_pattern", [True, False, True]),
    ],
)
def test_comparison_can_fail(name: str, key: str, value: Any, tmp_path: Path) -> None:
    """Each of these keys matters: a slightly wrong value is far outside the tolerance."""
    metadata = MODELS[name].metadata
    assert metadata.get(key) != value
    metadata[key] = value
    assert MODELS[name].error(EXACT, "GGUF", tmp_path, metadata) > FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gemma3-tied", ["attention.sliding_window_pattern", "rope.freq_base_swa"]),
        ("gemma2-defaults", ["attn_logit_softcapping", "final_logit_softcapping"]),
        ("gemma2-defaults", ["attention.sliding_window", "rope.freq_base"]),
        ("olmo3-yarn", ["attention.sliding_window_pattern"]),
        ("granite-plain", ["embedding_scale", "residual_scale", "rope.dimension_count"]),
        ("smollm3-bias", ["vocab_size", "rope.dimension_count"]),
        ("phi3-mha", ["attention.sliding_window", "rope.scaling.original_context_length"]),
    ],
)
def test_what_files_leave_out(name: str, keys: list[str], tmp_path: Path) -> None:
    """Files without these keys, as older converters made them, are what they are meant to be."""
    model = MODELS[name]
    metadata = model.metadata
    for key in keys:
        metadata.pop(f"{model.variant.architecture}.{key}", None)
    assert metadata != model.metadata or name == "gemma3-tied"
    assert model.error(EXACT, "GGUF", tmp_path, metadata) < FLOAT32_TOLERANCE
