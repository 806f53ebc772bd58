"""Logits of small random models with adapters against PEFT: every variant, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.adapters.written import write_gguf_adapter, write_peft_adapter
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import run_text
from tests.goldens.seeded_adapters import (
    ADAPTERS,
    COMBINATIONS,
    SeededAdapter,
    adapter_fingerprint,
)
from tests.goldens.seeded_model import (
    VARIANTS,
    checkpoint_weights,
    gguf_metadata,
    gguf_weights,
    token_ids,
)

from tektra.backends.base import Backend, CompileOptions, Executable, Step
from tektra.backends.reference import ReferenceBackend
from tektra.engine.adapter_files import read_adapter
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "adapters" / "logits.npz"
OPTIONS = CompileOptions(num_threads=2, max_rows=256, max_outputs=8, num_kv_blocks=8)
CASES = {name: (name,) for name in ADAPTERS} | dict(COMBINATIONS)
FLOAT32_TOLERANCE = 1e-5
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE = 3e-3
"""The same where they are rounded to float16, as for models without adapters."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


class Adapted:
    """An executable all of whose sequences have the same adapters."""

    def __init__(self, executable: Executable, ids: Sequence[int], scale: float = 1.0) -> None:
        self.options = executable.options
        self._executable = executable
        self._ids = np.array([ids], np.int32)
        self._scales = np.full((1, len(ids)), scale, np.float32)

    def run(self, step: Step, output: str = "logits") -> NDArray[np.float32]:
        step = replace(step, adapters=self._ids, adapter_scales=self._scales)
        return self._executable.run(step, output)  # type: ignore[arg-type]


def errors_of(
    adapters: Sequence[SeededAdapter],
    backend: Backend,
    form: str,
    folder: Path,
    expected: NDArray[np.float32],
    scale: float = 1.0,
) -> float:
    """Largest difference to PEFT's logits, as a share of the largest."""
    v = VARIANTS[adapters[0].base]
    weights = MemoryWeights.of(gguf_weights(v))
    drawn = draw(gguf_metadata(v), weights.tensors)
    executable = backend.compile(drawn.graph, weights, OPTIONS)
    try:
        ids = []
        for adapter in adapters:
            path = WRITERS[form](folder, adapter)
            ids.append(executable.add_adapter(read_adapter(path, drawn)))
        adapted: Any = Adapted(executable, ids, scale)
        out = run_text(adapted, token_ids(v).tolist(), v.rows)
    finally:
        executable.close()
    return float(np.abs(out - expected).max() / np.abs(expected).max())


WRITERS = {"GGUF": write_gguf_adapter, "PEFT": write_peft_adapter}


@pytest.mark.parametrize("name", ADAPTERS)
def test_seed_makes_the_same_adapter(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    weights = checkpoint_weights(VARIANTS[ADAPTERS[name].base])
    assert adapter_fingerprint(ADAPTERS[name], weights) == goldens[f"{name} fingerprint"], (
        "the random generator changed: run tests/goldens/make_adapter_goldens.py again"
    )


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("case", CASES)
def test_float32_cache(
    case: str, form: str, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    adapters = [ADAPTERS[name] for name in CASES[case]]
    backend = ReferenceBackend(kv_dtype="float32")
    assert errors_of(adapters, backend, form, tmp_path, goldens[case]) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("case", CASES)
def test_each_backend(
    case: str, form: str, backend: Backend, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    adapters = [ADAPTERS[name] for name in CASES[case]]
    assert errors_of(adapters, backend, form, tmp_path, goldens[case]) < FLOAT16_TOLERANCE


@pytest.mark.parametrize("form", WRITERS)
def test_comparison_can_fail(form: str, goldens: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    """A slightly wrong scale, alpha or rank is far outside the tolerance."""
    backend = ReferenceBackend(kv_dtype="float32")
    right = ADAPTERS["llama-patterns"]
    expected = goldens["llama-patterns"]
    assert errors_of([right], backend, form, tmp_path, expected, 0.999) > FLOAT32_TOLERANCE
    for wrong in (
        replace(right, alpha=right.alpha * 1.001),
        replace(right, use_rslora=True),
        replace(right, alpha_pattern={}),
    ):
        assert errors_of([wrong], backend, form, tmp_path, expected) > FLOAT32_TOLERANCE
