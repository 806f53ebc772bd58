"""Adapters on every backend: what they add, that rows do not meet, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.memory_weights import MemoryWeights
from tests.backends.present import other_backends, other_instruction_sets
from tests.backends.steps import Piece, make_step, run_text
from tests.backends.test_same_answer import MODEL, VOCABULARY, equal, model
from tests.backends.tolerances import LINEAR, assert_close

from tektra.backends.base import Backend, CompileOptions, Executable, Step
from tektra.backends.reference import ReferenceBackend
from tektra.errors import BackendError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.low_rank import LowRankUpdate
from tektra.graph import Graph

OTHERS = {**other_backends(), **other_instruction_sets()}
WIDTH, ROWS = 96, (40, 33, 200)  # of an input, and of three matrices that share it
TYPES = (GGMLType.F32, GGMLType.F16, GGMLType.Q4_0, GGMLType.Q8_0)
BLOCKS = 24


def update(rng: np.random.Generator, rows: int, width: int, rank: int) -> LowRankUpdate:
    a = (rng.standard_normal((rank, width)) / width**0.5).astype(np.float32)
    b = (rng.standard_normal((rows, rank)) / rank**0.5).astype(np.float32)
    return LowRankUpdate(a, b, 1.7)


def with_adapters(step: Step, ids: Sequence[Sequence[int]], scale: float = 1.0) -> Step:
    """A step whose sequences have these adapters, scaled by `scale` and its multiples."""
    width = max(1, *map(len, ids))
    table = np.full((len(ids), width), -1, np.int32)
    scales = np.zeros((len(ids), width), np.float32)
    for s, own in enumerate(ids):
        table[s, : len(own)] = own
        scales[s, : len(own)] = [scale * (1 + i / 4) for i in range(len(own))]
    return replace(step, adapters=table, adapter_scales=scales)


# One linear op, against what is written down


@pytest.fixture(params=TYPES, ids=lambda t: t.name)
def linear(request: pytest.FixtureRequest) -> tuple[Graph, MemoryWeights, NDArray[np.float64]]:
    """Three matrices on one input, whose row t is that of the table; the last is the output."""
    rng = np.random.default_rng(5)
    weights = MemoryWeights()
    weights.add("table", rng.standard_normal((64, WIDTH)).astype(np.float32))
    for i, rows in enumerate(ROWS):
        weights.add_random(f"m{i}.weight", (rows, WIDTH), request.param, rng)
    graph = weights.graph()
    x = graph.embed("table")
    _, _, wide = graph.linear(x, "m0", "m1", "m2")
    graph.output("hidden", graph.select_outputs(wide))
    return graph, weights, weights.floats("table").astype(np.float64)


@pytest.mark.parametrize("name", ["reference", *OTHERS])
@pytest.mark.parametrize("rank", [1, 3, 16, 40])
def test_what_is_added(
    name: str, rank: int, linear: tuple[Graph, MemoryWeights, NDArray[np.float64]]
) -> None:
    """scale * b (a x), for the rows whose sequence has the adapter, in float64."""
    graph, weights, table = linear
    rng = np.random.default_rng(rank)
    first = {"m2.weight": update(rng, ROWS[2], WIDTH, rank)}
    second = {
        "m2.weight": update(rng, ROWS[2], WIDTH, 2),
        "m0.weight": update(rng, ROWS[0], WIDTH, 5),
    }
    options = CompileOptions(num_threads=2, max_rows=64, max_outputs=64, num_kv_blocks=4)
    backend = ReferenceBackend() if name == "reference" else OTHERS[name]()
    executable = backend.compile(graph, weights, options)
    try:
        ids = [executable.add_adapter(first), executable.add_adapter(second)]
        pieces = [Piece(range(30), [0], 0, range(30)), Piece(range(30, 37), [1], 0, range(7))]
        pieces.append(Piece(range(40, 60), [2], 0, range(20)))
        step = with_adapters(make_step(pieces), [[ids[0]], [], [ids[1], ids[0]]], 0.5)
        out = executable.run(step, "hidden").copy()
    finally:
        executable.close()
    x = table[[*range(37), *range(40, 60)]]
    expected = x @ weights.floats("m2.weight").astype(np.float64).T

    def added(u: LowRankUpdate, rows: slice, scale: float) -> None:
        a, b = u.a.astype(np.float64), u.b.astype(np.float64)
        expected[rows] += scale * u.scale * (x[rows] @ a.T) @ b.T

    added(first["m2.weight"], slice(0, 30), 0.5)
    added(second["m2.weight"], slice(37, 57), 0.5)
    added(first["m2.weight"], slice(37, 57), 0.5 * 1.25)
    type = weights.tensors["m2.weight"].type
    assert_close(out, expected, LINEAR[type], f"{name}, rank {rank}")


# A whole model, to the bit


@pytest.fixture(params=[("F32", "f16"), ("Q4_1", "f16"), ("Q8_0", "int8")], ids="-".join)
def compiled(
    request: pytest.FixtureRequest, other_backend: Backend
) -> Iterator[Callable[[int], tuple[Executable, list[int]]]]:
    """Compiles a model with three adapters of different ranks, for a number of threads."""
    weight_type, kv_type = request.param
    graph, weights = model(GGMLType[weight_type])
    made: list[Executable] = []

    def compile(num_threads: int) -> tuple[Executable, list[int]]:
        options = CompileOptions(
            num_threads=num_threads,
            max_rows=320,
            max_outputs=16,
            num_kv_blocks=BLOCKS,
            kv_type=kv_type,
        )
        executable = other_backend.compile(graph, weights, options)
        made.append(executable)
        return executable, [executable.add_adapter(a) for a in adapters(weights)]

    yield compile
    for executable in made:
        executable.close()


def adapters(weights: MemoryWeights) -> list[dict[str, LowRankUpdate]]:
    rng = np.random.default_rng(31)
    matrices = {n: i.shape for n, i in weights.tensors.items() if len(i.shape) == 2}
    del matrices["token_embd.weight"]
    some = [n for n in matrices if "attn_q" in n or "ffn_down" in n]
    return [
        {n: update(rng, *matrices[n], rank) for n in names}
        for names, rank in ((matrices, 8), (some, 3), (matrices, 17))
    ]


class Adapted:
    """An executable all of whose sequences have the same adapters."""

    def __init__(self, executable: Executable, ids: Sequence[int]) -> None:
        self.options = executable.options
        self._executable, self._ids = executable, list(ids)

    def run(self, step: Step, output: str = "logits") -> NDArray[np.float32]:
        with_ids = with_adapters(step, [self._ids] * step.num_sequences)
        return self._executable.run(with_ids, output)  # type: ignore[arg-type]


LENGTH = 90
WANTED = (0, 31, 32, 64, 88, 89)


@pytest.fixture
def text() -> list[int]:
    ids: list[int] = np.random.default_rng(7).integers(0, VOCABULARY, LENGTH).tolist()
    return ids


Compile = Callable[[int], tuple[Executable, list[int]]]


def alone(
    executable: Executable, ids: Sequence[int], text: list[int], **how: int
) -> NDArray[np.float32]:
    return run_text(Adapted(executable, ids), text, WANTED, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [[0], [1], [2, 0], [0, 1, 2]])
def test_threads_and_chunks(compiled: Compile, text: list[int], which: list[int]) -> None:
    one, ids = compiled(1)
    whole = alone(one, [ids[i] for i in which], text)
    plain = run_text(one, text, WANTED)
    assert np.abs(whole - plain).max() > 0.05 * np.abs(plain).max(), "the adapter does not show"
    two, ids = compiled(2)
    for chunk in (LENGTH, 1, 7, 64):
        equal(alone(two, [ids[i] for i in which], text, chunk=chunk), whole)


def test_among_others(compiled: Compile, text: list[int]) -> None:
    """Sequences with different adapters, several and none in one step, each as if it were alone."""
    executable, ids = compiled(2)
    uses: list[list[int]] = [[], [ids[0]], [ids[1]], [ids[2], ids[1]], [ids[0]]]
    texts = [text[i : i + 40 + 3 * i] for i in range(5)]
    expected = [
        run_text(Adapted(executable, own), t, [len(t) - 1])[0]  # type: ignore[arg-type]
        for own, t in zip(uses, texts, strict=True)
    ]
    done = [0] * 5
    blocks = [list(range(2 * i, 2 * i + 2)) for i in range(5)]
    result: dict[int, NDArray[np.float32]] = {}
    rng = np.random.default_rng(2)
    while len(result) < 5:
        pieces, who = [], []
        for s in rng.permutation(5).tolist():
            size = min(int(rng.integers(0, 17)), len(texts[s]) - done[s])
            if size:
                outputs = [size - 1] if done[s] + size == len(texts[s]) else []
                pieces.append(
                    Piece(texts[s][done[s] : done[s] + size], blocks[s], done[s], outputs)
                )
                who.append(s)
                done[s] += size
        if not pieces:
            continue
        out = executable.run(with_adapters(make_step(pieces), [uses[s] for s in who])).copy()
        finished = [s for s, p in zip(who, pieces, strict=True) if p.outputs]
        result.update(zip(finished, out, strict=True))
    for s in range(5):
        equal(result[s], expected[s])


def test_without_adapters_nothing_changes(compiled: Compile, text: list[int]) -> None:
    executable, ids = compiled(2)
    before = run_text(executable, text, WANTED)
    alone(executable, [ids[0]], text)
    equal(run_text(executable, text, WANTED), before)
    equal(alone(executable, [], text), before)


def test_scale_of_zero_is_no_adapter(compiled: Compile, text: list[int]) -> None:
    executable, ids = compiled(1)
    step = make_step([Piece(text[:20], [0], 0, [19])])
    plain = executable.run(step).copy()
    out = executable.run(with_adapters(step, [[ids[0]]], 0.0)).copy()
    np.testing.assert_allclose(out, plain, rtol=0, atol=0)


def test_remove_while_others_stay(compiled: Compile, text: list[int]) -> None:
    executable, ids = compiled(2)
    expected = alone(executable, [ids[2]], text)
    full = executable.memory.parts["adapters"]
    executable.remove_adapter(ids[0])
    assert executable.memory.parts["adapters"] < full
    equal(alone(executable, [ids[2]], text), expected)
    with pytest.raises(BackendError, match="adapter 0 is not there"):
        alone(executable, [ids[0]], text)
    with pytest.raises(BackendError):
        executable.remove_adapter(ids[0])
    _, weights = model(GGMLType.F32)
    assert executable.add_adapter(adapters(weights)[1]) not in ids


# What is refused


@pytest.fixture
def executable(backend: Backend) -> Iterator[Executable]:
    graph, weights = model(GGMLType.F32)
    made = backend.compile(graph, weights, CompileOptions(num_kv_blocks=BLOCKS))
    yield made
    made.close()


@pytest.mark.parametrize("bad", [-2, 1, 2**31 - 1])
def test_unknown_adapter_in_a_step(executable: Executable, bad: int) -> None:
    executable.add_adapter({})
    step = make_step([Piece([1, 2], [0], 0, [1])])
    executable.run(with_adapters(step, [[0]]))
    with pytest.raises(BackendError, match=f"adapter {bad} is not there"):
        executable.run(with_adapters(step, [[bad]]))


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_scale_that_is_not_finite(executable: Executable, scale: float) -> None:
    id = executable.add_adapter({})
    step = make_step([Piece([1, 2], [0], 0, [1])])
    with pytest.raises(BackendError, match="not finite"):
        executable.run(with_adapters(step, [[id]], scale))


def test_tables_of_another_length(executable: Executable) -> None:
    id = executable.add_adapter({})
    step = make_step([Piece([1, 2], [0], 0, [1])])
    for rows, columns in ((2, 1), (0, 1)):
        wrong = replace(
            step,
            adapters=np.full((rows, columns), id, np.int32),
            adapter_scales=np.ones((rows, columns), np.float32),
        )
        with pytest.raises(BackendError):
            executable.run(wrong)
    with pytest.raises(BackendError):
        executable.run(replace(step, adapters=np.full((1, 1), id, np.int32)))


@pytest.mark.parametrize(
    ("name", "rows", "width"),
    [
        ("blk.0.attn_q.weight", MODEL.hidden, MODEL.hidden + 1),
        ("blk.0.attn_q.weight", MODEL.hidden - 1, MODEL.hidden),
        ("blk.0.attn_norm.weight", MODEL.hidden, MODEL.hidden),
        ("token_embd.weight", VOCABULARY, MODEL.hidden),
        ("nonsense", 1, 1),
    ],
)
def test_update_that_does_not_fit(executable: Executable, name: str, rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    before = dict(executable.memory.parts)
    with pytest.raises(BackendError, match=name):
        executable.add_adapter({name: update(rng, rows, width, 4)})
    assert executable.memory.parts == before
