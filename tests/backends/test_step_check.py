"""Malformed steps: each backend refuses them by name, and goes on to run well-formed ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.backends.cases import input_table
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, i32, make_step

from tektra.backends.base import Backend, CompileOptions, Executable, Step
from tektra.backends.step_check import check_step
from tektra.errors import BackendError
from tektra.graph import AttentionSpec, EmbedBy

OPTIONS = CompileOptions(max_rows=48, max_outputs=4, num_kv_blocks=6)
VOCABULARY = 50
POSITIONS = 40
SEGMENTS = 2
ROWS_OF = {
    EmbedBy.TOKEN: VOCABULARY,
    EmbedBy.POSITION: POSITIONS,
    EmbedBy.SEGMENT: SEGMENTS,
}


@pytest.fixture
def executable(backend: Backend) -> Iterator[Executable]:
    rng = np.random.default_rng(0)
    spec = AttentionSpec(2, 1, 32)
    weights = MemoryWeights.of(
        {"q": input_table(rng, VOCABULARY, 64), "kv": input_table(rng, VOCABULARY, 32)}
    )
    weights.add("positions", input_table(rng, POSITIONS, 64))
    weights.add("segments", input_table(rng, SEGMENTS, 64))
    graph = weights.graph()
    q, k, v = graph.embed("q"), graph.embed("kv"), graph.embed("kv")
    q = graph.add(q, graph.embed("positions", EmbedBy.POSITION))
    q = graph.add(q, graph.embed("segments", EmbedBy.SEGMENT))
    out = graph.attention(q, k, v, layer=0, spec=spec)
    graph.output("logits", graph.select_outputs(out))
    executable = backend.compile(graph, weights, OPTIONS)
    yield executable
    executable.close()


def good() -> Step:
    """Two sequences: 33 cached and 3 new tokens, none cached and 2 new ones."""
    return make_step(
        [Piece([1, 2, 3], [5, 0], 33, [2]), Piece([4, 5], [3], 0, [0, 1])],
    )


BAD: dict[str, dict[str, Any]] = {
    "no rows": {
        "token_ids": i32([]),
        "positions": i32([]),
        "row_starts": i32([0]),
        "num_cached": i32([]),
        "block_tables": np.empty((0, 2), np.int32),
        "output_rows": i32([]),
    },
    "token id too large": {"token_ids": i32([1, 2, VOCABULARY, 4, 5])},
    "token id negative": {"token_ids": i32([1, 2, -1, 4, 5])},
    "token ids two-dimensional": {"token_ids": i32([[1, 2, 3, 4, 5]])},
    "positions short": {"positions": i32([0, 1])},
    "position negative": {"positions": i32([33, 34, 35, -1, 1])},
    "position too large": {"positions": i32([33, 34, POSITIONS, 0, 1])},
    "segment too large": {"segments": i32([0, 0, 1, SEGMENTS, 0])},
    "segment negative": {"segments": i32([0, 0, 1, -1, 0])},
    "segments short": {"segments": i32([0, 0, 1])},
    "row starts short": {"row_starts": i32([0, 5])},
    "row starts empty": {"row_starts": i32([])},
    "row starts not from zero": {"row_starts": i32([1, 3, 5])},
    "row starts past the end": {"row_starts": i32([0, 3, 6])},
    "row starts backwards": {"row_starts": i32([0, 7, 5])},
    "sequence without rows": {"row_starts": i32([0, 5, 5])},
    "row starts overflow": {"row_starts": i32([0, -(2**31), 5])},
    "cached negative": {"num_cached": i32([-1, 0])},
    "cached huge": {"num_cached": i32([2**31 - 1, 0])},
    "cached more than blocks": {"num_cached": i32([62, 0])},
    "block too large": {"block_tables": i32([[5, 6], [3, -1]])},
    "block negative": {"block_tables": i32([[5, -2], [3, -1]])},
    "block missing": {"block_tables": i32([[5, -1], [3, -1]])},
    "blocks too few": {"block_tables": i32([[5], [3]])},
    "tables too few": {"block_tables": i32([[5, 0]])},
    "output row too large": {"output_rows": i32([5])},
    "output row negative": {"output_rows": i32([-1])},
    "outputs too many": {"output_rows": i32([0, 1, 2, 3, 4])},
}

CARELESS: dict[str, dict[str, Any]] = {
    "token ids of the wrong type": {"token_ids": np.array([1, 2, 3, 4, 5])},
    "token ids not contiguous": {"token_ids": i32(np.arange(10))[::2]},
    "block twice in a sequence": {"block_tables": i32([[5, 5], [3, -1]])},
    "block written by two": {"block_tables": i32([[5, 3], [3, -1]])},
    "block read and written": {"block_tables": i32([[3, 0], [3, -1]])},
}
"""Steps that touch no memory that is not theirs: the reference tells, other backends need not."""


@pytest.mark.parametrize("fault", CARELESS)
def test_careless_step(fault: str) -> None:
    with pytest.raises(BackendError, match="malformed step"):
        check_step(dataclasses.replace(good(), **CARELESS[fault]), OPTIONS, ROWS_OF)


@pytest.mark.parametrize("fault", BAD)
def test_malformed_step(executable: Executable, fault: str) -> None:
    before = executable.run(good()).copy()
    with pytest.raises(BackendError):
        executable.run(dataclasses.replace(good(), **BAD[fault]))
    np.testing.assert_array_equal(executable.run(good()), before)


def test_too_many_rows(executable: Executable) -> None:
    ids = [0] * (OPTIONS.max_rows + 1)
    with pytest.raises(BackendError, match=r"49 rows.* 48"):
        executable.run(make_step([Piece(ids, [0, 1])]))


def test_no_outputs_wanted(executable: Executable) -> None:
    out = executable.run(make_step([Piece([1, 2], [0])]))
    assert out.shape == (0, 64)


def test_output_that_the_graph_lacks(executable: Executable) -> None:
    with pytest.raises(BackendError, match="hidden"):
        executable.run(good(), "hidden")


def test_closed(executable: Executable) -> None:
    executable.close()
    executable.close()
    with pytest.raises(BackendError, match="closed"):
        executable.run(good())
    assert executable.memory.total == 0


def test_blocks_shared_for_reading(executable: Executable) -> None:
    """Two sequences with a common first block: what a prefix cache makes of two chats."""
    prefix = list(range(32))
    executable.run(make_step([Piece(prefix, [4])]))
    both = executable.run(
        make_step([Piece([40, 41], [4, 0], 32, [1]), Piece([42], [4, 1], 32, [0])])
    ).copy()
    for ids, block, row in (([40, 41], 2, 0), ([42], 3, 1)):
        alone = executable.run(make_step([Piece(prefix + ids, [5, block], 0, [31 + len(ids)])]))
        np.testing.assert_allclose(both[row], alone[0], rtol=0, atol=2e-6)


BAD_BLOCKS: dict[str, Any] = {
    "none": None,
    "empty": i32([]),
    "no block": i32([0]),
    "not from zero": i32([1, 3, 5]),
    "short": i32([0, 3]),
    "past the end": i32([0, 3, 6]),
    "backwards": i32([0, 4, 3, 5]),
    "far": i32([0, 2**31 - 1, 5]),
    "without rows": i32([0, 3, 3, 5]),
    "in two sequences": i32([0, 2, 5]),
}


@pytest.mark.parametrize("fault", BAD_BLOCKS)
def test_malformed_blocks_of_rows(backend: Backend, fault: str) -> None:
    rng = np.random.default_rng(1)
    weights = MemoryWeights.of({"x": input_table(rng, VOCABULARY, 32)})
    graph = weights.graph()
    q, k, v = (graph.embed("x") for _ in range(3))
    spec = AttentionSpec(1, 1, 32, causal=False, block_diagonal=True)
    out = graph.attention(q, k, v, layer=0, spec=spec)
    graph.output("logits", graph.select_outputs(out))
    executable = backend.compile(graph, weights, OPTIONS)
    step = dataclasses.replace(good(), block_starts=i32([0, 2, 3, 5]))
    before = executable.run(step).copy()
    with pytest.raises(BackendError):
        executable.run(dataclasses.replace(step, block_starts=BAD_BLOCKS[fault]))
    np.testing.assert_array_equal(executable.run(step), before)
    executable.close()
