"""The cases of the conformance suite: small graphs round one op, with inputs and the truth.

A case is named op-dtype-shape; the tests put the backend before that. Inputs reach the op through
float32 embedding tables, whose row t is what row t of the step holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tests.backends import formulas
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, i32, make_step, num_blocks
from tests.backends.tolerances import LINEAR, TOLERANCES, WEIGHT_TYPES, Tolerance

from tektra.backends.base import CacheType, Step
from tektra.formats.ggml_types import GGMLType
from tektra.graph import Activation, Graph, RopeLayout, RopeScaling, RopeSpec, Value

__all__ = [
    "MAX_ROWS",
    "Case",
    "Prepared",
    "all_rows",
    "input_table",
    "one_step",
    "rng_of",
    "row_cases",
]

F64 = NDArray[np.float64]

MAX_ROWS = 136
SHAPES = ((1, 576), (2, 640), (7, 896), (64, 96), (130, 33), (7, 1))
"""(rows, width) for ops that take any width: one and many rows, widths that fill no register."""


@dataclass(frozen=True)
class Prepared:
    """A case ready to be run: the output named "hidden" of the last step is compared."""

    graph: Graph
    weights: MemoryWeights
    steps: Sequence[Step]
    expected: Callable[[], F64]


@dataclass(frozen=True)
class Case:
    name: str
    tolerance: Tolerance
    prepare: Callable[[], Prepared]
    kv_type: CacheType = "f16"


def rng_of(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def input_table(
    rng: np.random.Generator, rows: int, width: int, spread: float = 1.0
) -> NDArray[np.float32]:
    return (rng.standard_normal((rows, width)) * spread).astype(np.float32)


def all_rows(rows: int) -> Step:
    """A text of so many tokens, every row of which is wanted."""
    return make_step([Piece(range(rows), range(num_blocks(rows)), 0, range(rows))])


def one_step(
    weights: MemoryWeights,
    rows: int,
    draw: Callable[[Graph], Value],
    expected: Callable[[], F64],
) -> Prepared:
    graph = weights.graph()
    graph.output("hidden", graph.select_outputs(draw(graph)))
    return Prepared(graph, weights, [all_rows(rows)], expected)


def row_cases() -> Iterator[Case]:
    """Every op but attention."""
    yield from _embed_cases()
    yield from _linear_cases()
    yield from _norm_cases()
    yield from _rope_cases()
    yield from _elementwise_cases()
    yield from _select_cases()


# Ops with weights


def _embed_cases() -> Iterator[Case]:
    for type in WEIGHT_TYPES:
        for rows, width in ((7, 256), (64, 768)):
            name = f"embed-{type.name}-{rows}x{width}"

            def prepare(
                name: str = name, type: GGMLType = type, rows: int = rows, width: int = width
            ) -> Prepared:
                weights = MemoryWeights().add_random("table", (97, width), type, rng_of(name))
                ids = rng_of(name).integers(0, 97, rows)
                graph = weights.graph()
                graph.output("hidden", graph.select_outputs(graph.embed("table")))
                step = make_step([Piece(ids.tolist(), range(num_blocks(rows)), 0, range(rows))])
                return Prepared(
                    graph,
                    weights,
                    [step],
                    lambda: weights.floats("table")[ids].astype(float),
                )

            yield Case(name, TOLERANCES["embed"], prepare)


def _linear_cases() -> Iterator[Case]:
    for type in WEIGHT_TYPES:
        block = type.block_size
        widths = {1: (1, 33, 576), 256: (256, 768)}.get(block, (3 * block, 9 * block, 14 * block))
        for out, width in zip((33, 96, 640), widths, strict=False):
            for rows in (1, 2, 7, 64, 130):
                bias = rows in (2, 64)
                yield _linear_case([type], [out], width, rows, 0, bias=bias)
    mixed = [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.F16]
    coded = [GGMLType.IQ2_S, GGMLType.IQ4_XS, GGMLType.MXFP4]
    old = [GGMLType.Q8_0, GGMLType.Q4_1, GGMLType.Q5_0]
    same = [GGMLType.Q4_0, GGMLType.Q4_0, GGMLType.Q4_0]
    for types, outs, width in (
        (mixed, [64, 32, 33], 512),
        (coded, [64, 32, 33], 512),
        (old, [96, 32, 32], 576),
        (same, [64, 32, 32], 96),
    ):
        for pick in range(3):
            for rows in (1, 7, 130):
                yield _linear_case(types, outs, width, rows, pick, bias=True)
    yield _linear_case([GGMLType.Q8_0], [259], 64, 7, 0, bias=False, after_select=True)


def _linear_case(
    types: Sequence[GGMLType],
    outs: Sequence[int],
    width: int,
    rows: int,
    pick: int,
    *,
    bias: bool,
    after_select: bool = False,
) -> Case:
    """Several weights on one input; the output of one of them is compared."""
    kinds = "+".join(type.name for type in types)
    where = f"-out{pick}" if len(types) > 1 else "-outputs" if after_select else ""
    name = f"linear-{kinds}-{rows}x{width}x{outs[pick]}{where}{'-bias' if bias else ''}"

    def prepare() -> Prepared:
        rng = rng_of(name)
        weights = MemoryWeights().add("x", input_table(rng, rows, width))
        for i, (type, out) in enumerate(zip(types, outs, strict=True)):
            weights.add_random(f"w{i}.weight", (out, width), type, rng)
            if bias and i == pick:
                weights.add(f"w{i}.bias", input_table(rng, 1, out)[0])
        graph = weights.graph()
        x = graph.embed("x")
        if after_select:
            x = graph.select_outputs(x)
        more = [f"w{i}" for i in range(1, len(types))]
        picked = graph.linear(x, "w0", *more)[pick] if more else graph.linear(x, "w0")
        graph.output("hidden", picked if after_select else graph.select_outputs(picked))

        def expected() -> F64:
            matrix = weights.floats(f"w{pick}.weight").astype(float)
            product: F64 = np.einsum("tk,nk->tn", weights.floats("x").astype(float), matrix)
            return product + (weights.floats(f"w{pick}.bias") if bias else 0.0)

        return Prepared(graph, weights, [all_rows(rows)], expected)

    return Case(name, LINEAR[types[pick]], prepare)


def _norm_cases() -> Iterator[Case]:
    grouped = ((7, 576, 64), (64, 96, 32), (2, 640, 80), (130, 66, 33))
    shapes = [(r, w, w) for r, w in SHAPES] + list(grouped)
    for rows, width, group in shapes:
        name = f"rms_norm-F32-{rows}x{width}" + (f"-group{group}" if group != width else "")

        def prepare(
            name: str = name, rows: int = rows, width: int = width, group: int = group
        ) -> Prepared:
            rng = rng_of(name)
            weights = MemoryWeights().add("x", input_table(rng, rows, width, 3.0))
            weights.add("w", input_table(rng, 1, group)[0])
            return one_step(
                weights,
                rows,
                lambda g: g.rms_norm(g.embed("x"), "w", 1e-5, group=group),
                lambda: formulas.rms_norm(
                    weights.floats("x").astype(float), weights.floats("w").astype(float), 1e-5
                ),
            )

        yield Case(name, TOLERANCES["rms_norm"], prepare)
    for rows, width in SHAPES:
        for bias in (False, True):
            name = f"layer_norm-F32-{rows}x{width}{'-bias' if bias else ''}"

            def prepare_layer(
                name: str = name, rows: int = rows, width: int = width, bias: bool = bias
            ) -> Prepared:
                rng = rng_of(name)
                # An offset, so that a variance from sums of squares would lose digits.
                weights = MemoryWeights().add("x", input_table(rng, rows, width) + np.float32(4))
                weights.add("n.weight", input_table(rng, 1, width)[0])
                if bias or width == 1:  # of one element nothing but the bias is left
                    weights.add("n.bias", input_table(rng, 1, width)[0])
                shift = weights.floats("n.bias").astype(float) if bias or width == 1 else None
                return one_step(
                    weights,
                    rows,
                    lambda g: g.layer_norm(g.embed("x"), "n", 1e-5),
                    lambda: formulas.layer_norm(
                        weights.floats("x").astype(float),
                        weights.floats("n.weight").astype(float),
                        shift,
                        1e-5,
                    ),
                )

            yield Case(name, TOLERANCES["layer_norm"], prepare_layer)


# Rotary positions


def _rope_cases() -> Iterator[Case]:
    half, interleaved = RopeLayout.HALF, RopeLayout.INTERLEAVED
    yarn = RopeScaling.YARN
    tuned = RopeSpec(32, 32, 1e4, half, yarn, 8.0, 64, attention_factor=0.7)
    for label, spec, heads, factors in (
        ("plain", RopeSpec(64, 64, 1e4, half), 3, False),
        ("plain", RopeSpec(64, 64, 1e5, interleaved), 9, False),
        ("wide", RopeSpec(256, 256, 1e6, half), 1, False),
        ("narrow", RopeSpec(2, 2, 1e4, interleaved), 5, False),
        ("partial", RopeSpec(80, 32, 1e4, half), 3, False),
        ("partial", RopeSpec(80, 32, 1e4, interleaved), 3, False),
        ("linear", RopeSpec(96, 96, 1e4, half, RopeScaling.LINEAR, factor=4.0), 2, False),
        ("yarn", RopeSpec(128, 128, 1e4, half, yarn, 8.0, 1024), 2, False),
        ("untruncated", RopeSpec(64, 64, 1e5, half, yarn, 32.0, 4096, truncate=False), 2, False),
        ("yarn", RopeSpec(64, 48, 1e6, interleaved, yarn, 4.0, 512, 16.0, 2.0), 2, False),
        ("factors", RopeSpec(64, 64, 5e5, interleaved, freq_factors="f"), 2, True),
        ("factors", RopeSpec(64, 32, 5e5, half, freq_factors="f"), 2, True),
        ("magnitude", RopeSpec(32, 32, 1e4, half, attention_factor=1.19), 4, False),
        ("yarn-magnitude", tuned, 4, False),
    ):
        for rows in (1, 7, 130):
            name = f"rope-F32-{rows}x{heads}x{spec.head_dim}-{spec.layout.value}-{label}"
            yield Case(name, TOLERANCES["rope"], _prepare_rope(name, spec, heads, factors, rows))


def _prepare_rope(
    name: str, spec: RopeSpec, heads: int, factors: bool, rows: int
) -> Callable[[], Prepared]:
    def prepare() -> Prepared:
        rng = rng_of(name)
        weights = MemoryWeights().add("x", input_table(rng, rows, heads * spec.head_dim))
        if factors:
            values = rng.uniform(1.0, 8.0, spec.dim // 2).astype(np.float32)
            weights.add("f", values)
        graph = weights.graph()
        graph.output("hidden", graph.select_outputs(graph.rope(graph.embed("x"), spec)))
        plain = all_rows(rows)
        # Positions need not be slots: any, up to far beyond a usual context.
        positions = i32(rng.integers(0, 131_072, rows))
        positions[0] = 0 if rows > 1 else 8191
        step = Step(
            plain.token_ids,
            positions,
            plain.row_starts,
            plain.num_cached,
            plain.block_tables,
            plain.output_rows,
        )
        table = weights.floats("f").astype(float) if factors else None
        return Prepared(
            graph,
            weights,
            [step],
            lambda: formulas.rope(weights.floats("x").astype(float), positions, spec, table),
        )

    return prepare


# Ops without weights


BinaryDraw = Callable[[Graph, Value, Value], Value]
BinaryFormula = Callable[[F64, F64], NDArray[np.floating]]


def _f32(x: F64) -> NDArray[np.float32]:
    """The inputs are float32: ops of one rounding have one right answer."""
    return x.astype(np.float32)


SIMPLE: Mapping[str, tuple[BinaryDraw, BinaryFormula]] = {
    "add": (lambda g, a, b: g.add(a, b), lambda a, b: _f32(a) + _f32(b)),
    "mul": (lambda g, a, b: g.mul(a, b), lambda a, b: _f32(a) * _f32(b)),
    "scale": (lambda g, a, b: g.scale(a, 0.3), lambda a, b: _f32(a) * np.float32(0.3)),
    "softcap": (lambda g, a, b: g.softcap(a, 30.0), lambda a, b: 30 * np.tanh(a / 30)),
}


def _elementwise_cases() -> Iterator[Case]:
    for shape in SHAPES:
        size = "x".join(map(str, shape))
        for function in Activation:
            for op, draw, formula in _activations(function):
                yield _elementwise(f"{op}-F32-{size}-{function.value}", op, shape, draw, formula)
        for op, (draw, formula) in SIMPLE.items():
            yield _elementwise(f"{op}-F32-{size}", op, shape, draw, formula)


def _activations(function: Activation) -> list[tuple[str, BinaryDraw, BinaryFormula]]:
    return [
        (
            "activate",
            lambda g, a, b: g.activate(a, function),
            lambda a, b: formulas.activation(function, a),
        ),
        (
            "gated",
            lambda g, a, b: g.gated(a, b, function),
            lambda a, b: formulas.activation(function, a) * b,
        ),
    ]


def _elementwise(
    name: str,
    op: str,
    shape: tuple[int, int],
    draw: BinaryDraw,
    formula: BinaryFormula,
) -> Case:
    def prepare() -> Prepared:
        rng = rng_of(name)
        tables = [input_table(rng, *shape, spread=3.0) for _ in range(2)]
        # Where exponentials overflow and underflow.
        extremes = np.array([-200.0, -88.9, -30.0, 0.0, 30.0, 88.9, 200.0], np.float32)
        tables[0].reshape(-1)[: len(extremes)] = extremes[: tables[0].size]
        weights = MemoryWeights.of({"a": tables[0], "b": tables[1]})
        return one_step(
            weights,
            shape[0],
            lambda g: draw(g, g.embed("a"), g.embed("b")),
            lambda: formula(tables[0].astype(float), tables[1].astype(float)).astype(float),
        )

    return Case(name, TOLERANCES[op], prepare)


def _select_cases() -> Iterator[Case]:
    for rows, width in SHAPES:
        for label, picked in (
            ("last", [rows - 1]),
            ("backwards", list(range(rows))[::-1]),
            ("twice", [0, rows // 2, 0]),
        ):
            name = f"select-F32-{rows}x{width}-{label}"

            def prepare(
                name: str = name, rows: int = rows, width: int = width, picked: list[int] = picked
            ) -> Prepared:
                table = input_table(rng_of(name), rows, width)
                weights = MemoryWeights.of({"x": table})
                graph = weights.graph()
                graph.output("hidden", graph.select_outputs(graph.embed("x")))
                step = make_step([Piece(range(rows), range(num_blocks(rows)), 0, picked)])
                return Prepared(graph, weights, [step], lambda: table[picked].astype(float))

            yield Case(name, TOLERANCES["select"], prepare)
