"""Single ops against what torch and transformers compute, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, i32, make_step
from tests.backends.tolerances import TOLERANCES, Tolerance, assert_close

from tektra.backends.base import Backend, CompileOptions, Step
from tektra.graph import Activation, AttentionSpec, Graph, RopeLayout, RopeSpec, Value

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "ops.npz"
OPTIONS = CompileOptions(max_rows=64, max_outputs=64, num_kv_blocks=4)


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def compute(
    backend: Backend,
    tables: dict[str, NDArray[np.float32]],
    draw: Callable[[Graph], Value],
    num_rows: int,
    positions: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """One step over the rows of the tables."""
    weights = MemoryWeights.of(tables)
    graph = weights.graph()
    graph.output("hidden", graph.select_outputs(draw(graph)))
    step = make_step([Piece(range(num_rows), [2, 0], 0, range(num_rows))])
    if positions is not None:
        step = Step(
            step.token_ids,
            i32(positions),
            step.row_starts,
            step.num_cached,
            step.block_tables,
            step.output_rows,
        )
    executable = backend.compile(graph, weights, OPTIONS)
    try:
        return executable.run(step, "hidden").copy()
    finally:
        executable.close()


@pytest.mark.parametrize("layout", RopeLayout)
def test_rope(backend: Backend, goldens: dict[str, NDArray[Any]], layout: RopeLayout) -> None:
    positions = goldens["rope positions"]
    out = compute(
        backend,
        {"x": goldens["rope x"]},
        lambda g: g.rope(g.embed("x"), RopeSpec(16, 16, 10000.0, layout)),
        len(positions),
        positions,
    )
    assert_close(out, goldens[f"rope {layout.value}"], TOLERANCES["rope"], layout.value)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("causal", AttentionSpec(4, 2, 16)),
        ("bidirectional", AttentionSpec(4, 2, 16, causal=False)),
        ("window", AttentionSpec(4, 2, 16, window=10)),
        ("with sinks", AttentionSpec(4, 2, 16, sinks="sinks")),
        ("with softcap", AttentionSpec(4, 2, 16, softcap=2.0)),
    ],
)
def test_attention(
    backend: Backend, goldens: dict[str, NDArray[Any]], name: str, spec: AttentionSpec
) -> None:
    tables = {part: goldens[f"attention {part}"] for part in ("q", "k", "v", "sinks")}
    out = compute(
        backend,
        tables,
        lambda g: g.attention(g.embed("q"), g.embed("k"), g.embed("v"), layer=0, spec=spec),
        len(tables["q"]),
    )
    assert_close(out, goldens[f"attention {name}"], TOLERANCES["attention"], name)


Draw = Callable[[Graph, Value], Value]


def _activate(function: Activation) -> Draw:
    return lambda g, x: g.activate(x, function)


ROWWISE: dict[str, tuple[Draw, Tolerance]] = {
    "rms_norm": (lambda g, x: g.rms_norm(x, "n.weight", 1e-5), TOLERANCES["rms_norm"]),
    "rms_norm heads": (
        lambda g, x: g.rms_norm(x, "head", 1e-5, group=16),
        TOLERANCES["rms_norm"],
    ),
    "layer_norm": (lambda g, x: g.layer_norm(x, "n", 1e-5), TOLERANCES["layer_norm"]),
    "linear": (lambda g, x: g.linear(x, "l"), TOLERANCES["activate"]),
    **{f.value: (_activate(f), TOLERANCES["activate"]) for f in Activation},
}


@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise(backend: Backend, goldens: dict[str, NDArray[Any]], name: str) -> None:
    weight, bias = goldens["weight"], goldens["bias"]
    tables = {
        "x": goldens["x"],
        "n.weight": weight,
        "n.bias": bias,
        "head": weight[:16],
        "l.weight": weight * np.eye(48, dtype=np.float32)[:7],
        "l.bias": bias[:7],
    }
    draw, tolerance = ROWWISE[name]
    out = compute(backend, tables, lambda g: draw(g, g.embed("x")), len(goldens["x"]))
    assert_close(out, goldens[name], tolerance, name)
