"""Logits of small random models against transformers: every variant, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.seeded_model import (
    VARIANTS,
    Variant,
    checkpoint_config,
    checkpoint_weights,
    fingerprint,
    gguf_metadata,
    gguf_weights,
    token_ids,
)
from tests.models.page import Measured

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.config import KvType
from tektra.engine.model_files import open_model
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_writer import write_gguf
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "logits.npz"
OPTIONS = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)
Form = Literal["GGUF", "safetensors"]
FORMS = get_args(Form)
FLOAT32_TOLERANCE = 1e-4
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE = 3e-3
"""The same where they are rounded to float16: 2^-11 each, times what two layers make of it."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def logits_of(
    variant: Variant,
    backend: Backend,
    folder: Path,
    metadata: dict[str, Any] | None = None,
    *,
    form: Form = "GGUF",
    kv_type: KvType = "f16",
) -> NDArray[np.float32]:
    """Writes the variant in a form, opens it, and runs its text."""
    path = folder / form
    if form == "GGUF":
        write_gguf(
            path,
            metadata or gguf_metadata(variant),
            [(n, a.shape, GGMLType.F32, a) for n, a in gguf_weights(variant).items()],
        )
    else:
        write_checkpoint(path, checkpoint_config(variant), checkpoint_weights(variant), shards=3)
    with open_model(path) as file:
        model = draw(file.metadata, file.tensors)
        executable = backend.compile(model.graph, file, replace(OPTIONS, kv_type=kv_type))
        try:
            return run_text(executable, token_ids(variant).tolist(), variant.rows)
        finally:
            executable.close()


def difference(out: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def measured(variant: Variant, form: str, backend: str, error: float) -> Measured:
    """For the page of models."""
    return Measured(
        architecture=variant.architecture,
        form=form,
        backend=backend,
        variant=variant.name,
        error=error,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_seed_makes_the_same_model(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    assert fingerprint(VARIANTS[name]) == goldens[f"{name} fingerprint"], (
        "the random generator changed: run tests/goldens/make_model_goldens.py again"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_float32_cache(
    name: str,
    form: Form,
    goldens: dict[str, NDArray[Any]],
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    reference = ReferenceBackend(kv_dtype="float32")
    error = difference(logits_of(VARIANTS[name], reference, tmp_path, form=form), goldens[name])
    record_error(measured(VARIANTS[name], form, "reference, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_float32_cache_of_other_backends(
    name: str,
    form: Form,
    other_backend: Backend,
    goldens: dict[str, NDArray[Any]],
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    out = logits_of(VARIANTS[name], other_backend, tmp_path, form=form, kv_type="f32")
    error = difference(out, goldens[name])
    record_error(measured(VARIANTS[name], form, f"{other_backend.name}, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_each_backend(
    name: str,
    form: Form,
    backend: Backend,
    goldens: dict[str, NDArray[Any]],
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = difference(logits_of(VARIANTS[name], backend, tmp_path, form=form), goldens[name])
    record_error(measured(VARIANTS[name], form, f"{backend.name}, f16", error))
    assert error < FLOAT16_TOLERANCE


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
    ],
)
def test_comparison_can_fail(
    name: str, key: str, value: float | str, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Each of these keys matters: a slightly wrong value is far outside the tolerance."""
    metadata = gguf_metadata(VARIANTS[name])
    assert metadata[key] != value
    metadata[key] = value
    out = logits_of(VARIANTS[name], ReferenceBackend(kv_dtype="float32"), tmp_path, metadata)
    assert difference(out, goldens[name]) > FLOAT32_TOLERANCE
