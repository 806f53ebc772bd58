"""SmolLM2's next-token distributions against transformers in float32, on every backend.

The golden keeps the most probable tokens of each position and one lump for the rest, so the
divergence here is a lower bound; `benchmarks/accuracy.py` computes it in full.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.present import all_backends
from tests.backends.steps import run_text

from tektra.backends.base import CompileOptions
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[2] / "goldens" / "models" / "score.npz"
OPTIONS = CompileOptions(num_threads=2, max_rows=128, max_outputs=128, num_kv_blocks=8)

F64 = NDArray[np.float64]


class Bounds(NamedTuple):
    """Mean divergence in nats, share of positions with the same top token, perplexity's change."""

    divergence: float
    same_top: float
    perplexity: float


BOUNDS = {"reference": Bounds(2e-5, 0.99, 5e-4)}
PROMISED = Bounds(0.002, 0.96, 0.005)
"""What every other backend is held to."""


def log_softmax(logits: NDArray[np.float32]) -> F64:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    total: F64 = np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide - total


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", sorted(all_backends()))
def test_distributions(name: str, goldens: dict[str, NDArray[Any]], smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as file:
        model = draw(file.metadata, file.tensors)
        executable = all_backends()[name]().compile(model.graph, file, OPTIONS)
    divergences, same, changes = [], [], []
    for i in range(4):
        ids, top = goldens[f"ids{i}"], goldens[f"top{i}"].astype(np.intp)
        q = log_softmax(run_text(executable, ids.tolist(), range(len(ids))))
        p = goldens[f"logprobs{i}"].astype(np.float64)
        kept = np.take_along_axis(q, top, -1)
        rest = np.log(np.maximum(1.0 - np.exp(kept).sum(-1, keepdims=True), 1e-12))
        divergences.append((np.exp(p) * (p - np.concatenate([kept, rest], -1))).sum(-1))
        same.append(top[:, 0] == q.argmax(-1))
        changes.append(goldens[f"next{i}"] - q[np.arange(len(ids) - 1), ids[1:]])
    executable.close()
    bounds = BOUNDS.get(name, PROMISED)
    assert float(np.concatenate(divergences).mean()) <= bounds.divergence
    assert float(np.concatenate(same).mean()) >= bounds.same_top
    assert abs(math.expm1(float(np.concatenate(changes).mean()))) <= bounds.perplexity
