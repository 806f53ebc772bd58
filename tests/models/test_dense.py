"""Logits of small dense decoders against transformers: every variant, form and backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.dense_model import (
    DenseVariant,
    checkpoint_weights,
    fingerprint,
    gguf_weights,
    token_ids,
    variant,
)
from tests.goldens.variants_dense import DENSE as OTHERS
from tests.goldens.variants_gemma import GEMMAS
from tests.models.page import Measured

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.config import KvType
from tektra.engine.model_files import open_model
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_writer import write_gguf
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "dense.npz"
OPTIONS = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)
DENSE = {spec["name"]: variant(**spec) for spec in (*GEMMAS, *OTHERS)}
FORMS = ("GGUF", "safetensors")
FLOAT32_TOLERANCE = 1e-4
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE = 3e-3
"""The same where they are rounded to float16."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def logits_of(
    v: DenseVariant,
    backend: Backend,
    form: str,
    folder: Path,
    metadata: dict[str, Any] | None = None,
    *,
    kv_type: KvType = "f16",
) -> NDArray[np.float32]:
    """Writes the variant in a form, opens it, and runs its text."""
    path = write(v, form, folder, metadata)
    with open_model(path) as file:
        model = draw(file.metadata, file.tensors, context=v.context)
        executable = backend.compile(model.graph, file, replace(OPTIONS, kv_type=kv_type))
        try:
            return run_text(executable, token_ids(v).tolist(), v.rows)
        finally:
            executable.close()


def write(v: DenseVariant, form: str, folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    """Writes a variant in a form, with other metadata where GGUF is to have other."""
    path = folder / ("model" if form == "safetensors" else "model.gguf")
    if form == "safetensors":
        assert metadata is None
        write_checkpoint(path, dict(v.config), checkpoint_weights(v))
        return path
    tensors = gguf_weights(v).items()
    write_gguf(
        path,
        metadata or v.gguf_metadata,
        [(n, a.shape, GGMLType.F32, a) for n, a in tensors],
    )
    return path


def difference(out: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def errors_of(
    v: DenseVariant, backend: Backend, form: str, folder: Path, kv_type: KvType = "f16"
) -> float:
    """How far the logits of a variant are from those of transformers."""
    with np.load(GOLDENS) as goldens:
        out = logits_of(v, backend, form, folder, kv_type=kv_type)
        return difference(out, goldens[v.name])


def measured(v: DenseVariant, form: str, backend: str, error: float) -> Measured:
    """For the page of models."""
    return Measured(
        architecture=v.architecture,
        form=form,
        backend=backend,
        variant=v.name,
        error=error,
    )


@pytest.mark.parametrize("name", DENSE)
def test_seed_makes_the_same_model(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    assert fingerprint(DENSE[name]) == goldens[f"{name} fingerprint"], (
        "the random generator changed: run tests/goldens/make_dense_goldens.py again"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DENSE)
def test_float32_cache(
    name: str, form: str, tmp_path: Path, record_error: Callable[[Measured], None]
) -> None:
    error = errors_of(DENSE[name], ReferenceBackend(kv_dtype="float32"), form, tmp_path)
    record_error(measured(DENSE[name], form, "reference, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DENSE)
def test_float32_cache_of_other_backends(
    name: str,
    form: str,
    other_backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = errors_of(DENSE[name], other_backend, form, tmp_path, kv_type="f32")
    record_error(measured(DENSE[name], form, f"{other_backend.name}, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DENSE)
def test_each_backend(
    name: str,
    form: str,
    backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = errors_of(DENSE[name], backend, form, tmp_path)
    record_error(measured(DENSE[name], form, f"{backend.name}, f16", error))
    assert error < FLOAT16_TOLERANCE


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
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
    ],
)
def test_comparison_can_fail(
    name: str, key: str, value: Any, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Each of these keys matters: a slightly wrong value is far outside the tolerance."""
    metadata = DENSE[name].gguf_metadata
    assert metadata.get(key) != value
    metadata[key] = value
    out = logits_of(DENSE[name], ReferenceBackend(kv_dtype="float32"), "GGUF", tmp_path, metadata)
    assert difference(out, goldens[name]) > FLOAT32_TOLERANCE


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
def test_what_files_leave_out(
    name: str, keys: list[str], goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Files without these keys, as older converters made them, are what they are meant to be."""
    v = DENSE[name]
    metadata = v.gguf_metadata
    for key in keys:
        metadata.pop(f"{v.architecture}.{key}", None)
    assert metadata != v.gguf_metadata or name == "gemma3-tied"
    out = logits_of(v, ReferenceBackend(kv_dtype="float32"), "GGUF", tmp_path, metadata)
    assert difference(out, goldens[name]) < FLOAT32_TOLERANCE
