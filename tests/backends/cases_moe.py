"""Cases of the conformance suite for mixtures of experts: how they are chosen, weighed, computed.

Router logits come from a table like the input itself, so that a backend that rounds activations
chooses as the formula does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tests.backends import formulas
from tests.backends.cases import Case, Prepared, all_rows, input_table, rng_of
from tests.backends.memory_weights import MemoryWeights
from tests.backends.tolerances import TOLERANCES, WEIGHT_TYPES

from tektra.formats.ggml_types import GGMLType
from tektra.graph import Activation, ClampedGate, MoeSpec, Scoring

__all__ = ["moe_cases"]

F64 = NDArray[np.float64]
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


@dataclass(frozen=True)
class Shape:
    rows: int
    experts: int
    width: int
    inner: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.width}x{self.inner}x{self.experts}"


def moe_cases() -> Iterator[Case]:
    yield from _variants()
    for weight_type in WEIGHT_TYPES:
        width, inner = (256, 512) if weight_type.block_size > 32 else (96, 160)
        for rows in (1, 7, 64):
            yield _case("", Shape(rows, 8, width, inner), MoeSpec(8, 2), [weight_type] * 3)
    mixed = [GGMLType.Q4_K, GGMLType.Q8_0, GGMLType.Q6_K]
    yield _case("mixed", Shape(17, 4, 256, 256), MoeSpec(4, 2), mixed, biases=True)
    half = [GGMLType.F16, GGMLType.Q4_0, GGMLType.BF16]
    yield _case("mixed", Shape(9, 4, 64, 96), MoeSpec(4, 3), half, after_select=True)
    q4 = [GGMLType.Q4_0] * 3
    yield _case("outputs", Shape(5, 4, 64, 96), MoeSpec(4, 2), q4, after_select=True)


def _variants() -> Iterator[Case]:
    f32 = [GGMLType.F32] * 3
    for rows in (1, 2, 7, 130):
        yield _case("", Shape(rows, 8, 64, 96), MoeSpec(8, 2), f32)
        yield _case("many", Shape(rows, 128, 32, 24), MoeSpec(128, 8), f32)
    # widths that fill no register, and rows of an expert that fill no group
    yield _case("odd", Shape(30, 5, 33, 19), MoeSpec(5, 2), f32, biases=True)
    yield _case("narrow", Shape(3, 2, 7, 5), MoeSpec(2, 1), f32)
    yield _case("one", Shape(9, 1, 32, 48), MoeSpec(1, 1), f32)
    yield _case("all", Shape(9, 6, 32, 48), MoeSpec(6, 6), f32)
    shape = Shape(21, 8, 48, 40)
    for label, spec in (
        ("unnormalized", MoeSpec(8, 3, normalize=False)),
        ("scaled", MoeSpec(8, 3, scale=2.5)),
        ("sigmoid", MoeSpec(8, 3, Scoring.SIGMOID, scale=1.5)),
        ("sigmoid-unnormalized", MoeSpec(8, 3, Scoring.SIGMOID, normalize=False)),
        ("gelu", MoeSpec(8, 3, function=Activation.GELU_TANH)),
        ("clamped", MoeSpec(8, 3, function=ClampedGate())),
        ("clamped-near", MoeSpec(8, 3, function=ClampedGate(alpha=1.1, limit=0.5))),
    ):
        for biases in (False, True):
            yield _case(label, shape, spec, f32, biases=biases)
    for scoring in Scoring:
        for normalize in (False, True):
            name = f"{scoring.value}-choice{'' if normalize else '-unnormalized'}"
            yield _case(name, shape, MoeSpec(8, 3, scoring, normalize), f32, choice_bias=True)
    yield _case("ties", Shape(64, 8, 32, 24), MoeSpec(8, 3), f32, ties=True)
    yield _case("extreme", Shape(16, 8, 32, 24), MoeSpec(8, 2), f32, spread=60.0)
    yield _case("outputs", Shape(7, 8, 32, 24), MoeSpec(8, 2), f32, after_select=True)


def _case(
    label: str,
    shape: Shape,
    spec: MoeSpec,
    types: Sequence[GGMLType],
    *,
    biases: bool = False,
    choice_bias: bool = False,
    ties: bool = False,
    spread: float = 1.5,
    after_select: bool = False,
) -> Case:
    kinds = types[0].name if len(set(types)) == 1 else "+".join(t.name for t in types)
    parts = [label, "bias" if biases else "", "choice" if choice_bias else ""]
    name = "-".join(["moe", kinds, str(shape), *filter(None, parts)])
    tolerance = TOLERANCES["moe" if set(types) <= set(FLOATS) else "moe-int8"]
    parts_of = ("gate", "up", "down")
    sizes = ((shape.inner, shape.width), (shape.inner, shape.width), (shape.width, shape.inner))

    def prepare() -> Prepared:
        rng = rng_of(name)
        logits = input_table(rng, shape.rows, shape.experts, spread)
        if ties:
            logits = np.rint(logits)
        weights = MemoryWeights().add("x", input_table(rng, shape.rows, shape.width, 2.0))
        weights.add("logits", logits)
        for part, size, weight_type in zip(parts_of, sizes, types, strict=True):
            weights.add_random(f"{part}.weight", (shape.experts, *size), weight_type, rng)
            if biases:
                weights.add(f"{part}.bias", input_table(rng, shape.experts, size[0]))
        if choice_bias:
            weights.add("choice", input_table(rng, 1, shape.experts)[0])
        graph = weights.graph()
        x, scores = graph.embed("x"), graph.embed("logits")
        if after_select:
            x, scores = graph.select_outputs(x), graph.select_outputs(scores)
        choice = "choice" if choice_bias else None
        out = graph.moe(x, scores, *parts_of, spec=spec, choice_bias=choice)
        graph.output("hidden", out if after_select else graph.select_outputs(out))
        return Prepared(
            graph,
            weights,
            [all_rows(shape.rows)],
            _expected(weights, spec, biases=biases, choice_bias=choice_bias),
        )

    return Case(name, tolerance, prepare)


def _expected(
    weights: MemoryWeights, spec: MoeSpec, *, biases: bool, choice_bias: bool
) -> Callable[[], F64]:
    def floats(name: str) -> F64:
        return weights.floats(name).astype(float)

    def expected() -> F64:
        gate, up, down = (floats(f"{part}.weight") for part in ("gate", "up", "down"))
        shifts: tuple[F64 | None, F64 | None, F64 | None] = (None, None, None)
        if biases:
            shifts = floats("gate.bias"), floats("up.bias"), floats("down.bias")
        choice = floats("choice") if choice_bias else None
        rows = zip(floats("x"), floats("logits"), strict=True)
        return np.stack(
            [formulas.moe_row(x, row, (gate, up, down), shifts, choice, spec) for x, row in rows]
        )

    return expected
