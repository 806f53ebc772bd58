"""Logits of small dense decoders against transformers: every variant, form and backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.goldens.dense_model import fingerprint, gguf_weights, token_ids
from tests.goldens.variants_dense import DENSE, DenseVariant
from tests.models.page import Measured

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import write_gguf
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "dense.npz"
OPTIONS = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)
FORMS = ("GGUF",)
FLOAT32_TOLERANCE = 1e-4
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE = 3e-3
"""The same where they are rounded to float16."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def logits_of(
    variant: DenseVariant,
    backend: Backend,
    form: str,
    folder: Path,
    metadata: dict[str, Any] | None = None,
) -> NDArray[np.float32]:
    """Writes the variant in a form, opens it, and runs its text."""
    assert form == "GGUF"
    write_gguf(
        folder / "model.gguf",
        metadata or variant.gguf_metadata,
        [(n, a.shape, GGMLType.F32, a) for n, a in gguf_weights(variant).items()],
    )
    with GGUFFile.open(folder / "model.gguf") as file:
        model = draw(file.metadata, file.tensors)
        executable = backend.compile(model.graph, file, OPTIONS)
        try:
            return run_text(executable, token_ids(variant).tolist(), variant.rows)
        finally:
            executable.close()


def difference(out: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def errors_of(variant: DenseVariant, backend: Backend, form: str, folder: Path) -> float:
    """How far the logits of a variant are from those of transformers."""
    with np.load(GOLDENS) as goldens:
        return difference(logits_of(variant, backend, form, folder), goldens[variant.name])


def measured(variant: DenseVariant, form: str, backend: str, error: float) -> Measured:
    """For the page of models."""
    return Measured(
        architecture=variant.architecture,
        form=form,
        backend=backend,
        variant=variant.name,
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
