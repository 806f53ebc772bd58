"""The same answer: logits of a text are equal to the bit however it is computed.

Alone or in a batch, its prompt in any chunks, with any number of threads, in whichever blocks.
Held by every backend but the reference, whose products are BLAS's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, i32, make_step, num_blocks, run_text
from tests.backends.tolerances import WEIGHT_TYPES
from tests.goldens.seeded_model import Variant, gguf_metadata, gguf_weights

from tektra.backends.base import (
    CACHE_TYPES,
    Backend,
    CacheType,
    CompileOptions,
    Executable,
)
from tektra.formats.ggml_types import GGMLType
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import AttentionSpec, Graph
from tektra.models.base import draw

VOCABULARY = 96
MODEL = Variant(
    name="same-answer",
    architecture="llama",
    hidden=256,
    ffn=512,
    heads=4,
    kv_heads=2,
    vocab=VOCABULARY,
    context=512,
)
TYPES = [
    *((type.name, "f16") for type in WEIGHT_TYPES),
    ("F32", "int8"),
    ("Q4_1", "int8"),
    ("F32", "f16", "experts"),
    ("Q8_0", "f16", "experts"),
    ("Q4_K", "f16", "experts"),
]
NUM_EXPERTS, NUM_USED = 6, 3
LENGTH = 300  # more than a split of attention in the native core
ROWS = (0, 31, 32, 63, 64, 100, 255, 256, 298, 299)
NUM_KV_BLOCKS = 24


def model(type: GGMLType) -> tuple[Graph, MemoryWeights]:
    """A two-layer model all of whose matrices are of one type."""
    rng = np.random.default_rng(int(type))
    weights = MemoryWeights()
    for name, array in gguf_weights(MODEL).items():
        if array.ndim == 2:
            weights.add_random(name, array.shape, type, rng)
        else:
            weights.add(name, array)
    tensors: dict[str, TensorInfo] = dict(weights.tensors)
    return draw(gguf_metadata(MODEL), tensors).graph, weights


def model_with_experts(type: GGMLType) -> tuple[Graph, MemoryWeights]:
    """The same with a mixture of experts in each layer: rows part ways and meet again."""
    rng = np.random.default_rng(int(type))
    weights = MemoryWeights()
    for name, array in gguf_weights(MODEL).items():
        stem = name.removesuffix(".weight")
        if stem.endswith(("ffn_gate", "ffn_up", "ffn_down")):
            weights.add_random(f"{stem}_exps.weight", (NUM_EXPERTS, *array.shape), type, rng)
        elif array.ndim == 2:
            weights.add_random(name, array.shape, type, rng)
        else:
            weights.add(name, array)
    for layer in range(MODEL.layers):
        router = rng.standard_normal((NUM_EXPERTS, MODEL.hidden)).astype(np.float32)
        weights.add(f"blk.{layer}.ffn_gate_inp.weight", router)
    counts = {"llama.expert_count": NUM_EXPERTS, "llama.expert_used_count": NUM_USED}
    return draw(gguf_metadata(MODEL) | counts, dict(weights.tensors)).graph, weights


Compile = Callable[[int], Executable]


@pytest.fixture(params=TYPES, ids="-".join)
def compiled(request: pytest.FixtureRequest, other_backend: Backend) -> Iterator[Compile]:
    """Compiles the model for a number of threads."""
    weight_type, kv_type, *experts = request.param
    make = model_with_experts if experts else model
    graph, weights = make(GGMLType[weight_type])
    made: list[Executable] = []

    def compile(num_threads: int) -> Executable:
        options = CompileOptions(
            num_threads=num_threads,
            max_rows=320,
            max_outputs=16,
            num_kv_blocks=NUM_KV_BLOCKS,
            kv_type=kv_type,
        )
        made.append(other_backend.compile(graph, weights, options))
        return made[-1]

    yield compile
    for executable in made:
        executable.close()


@pytest.fixture
def text() -> list[int]:
    ids: list[int] = np.random.default_rng(7).integers(0, VOCABULARY, LENGTH).tolist()
    return ids


def equal(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def test_threads(compiled: Compile, text: list[int]) -> None:
    for chunk in (LENGTH, 1):
        equal(
            run_text(compiled(1), text, ROWS, chunk=chunk),
            run_text(compiled(2), text, ROWS, chunk=chunk),
        )
    equal(run_text(compiled(1), text, ROWS), run_text(compiled(3), text, ROWS))


@pytest.mark.parametrize("threads", [1, 2])
def test_chunks(compiled: Compile, text: list[int], threads: int) -> None:
    executable = compiled(threads)
    whole = run_text(executable, text, ROWS)
    for chunk in (1, 7, 64):
        equal(run_text(executable, text, ROWS, chunk=chunk), whole)


def test_scrambled_blocks(compiled: Compile, text: list[int]) -> None:
    executable = compiled(2)
    blocks = np.random.default_rng(3).permutation(NUM_KV_BLOCKS).tolist()
    equal(
        run_text(executable, text, ROWS, blocks=blocks[: num_blocks(LENGTH)]),
        run_text(executable, text, ROWS),
    )


def test_stale_cache(compiled: Compile, text: list[int]) -> None:
    """What another text left in the blocks does not show."""
    executable = compiled(2)
    first = run_text(executable, text, ROWS)
    run_text(executable, text[::-1], ROWS)
    equal(run_text(executable, text, ROWS), first)


def test_among_others(compiled: Compile, text: list[int]) -> None:
    """The text is fed in pieces while other sequences come, decode and go."""
    executable = compiled(2)
    alone = run_text(executable, text, ROWS)
    rng = np.random.default_rng(11)
    free = rng.permutation(NUM_KV_BLOCKS).tolist()
    mine = [free.pop() for _ in range(num_blocks(LENGTH))]
    others = [[free.pop() for _ in range(3)] for _ in range(4)]
    lengths = [0, 0, 0, 0]
    results: dict[int, NDArray[np.float32]] = {}
    start = 0
    for size in (1, 30, 5, 28, 100, 91, 44, 1):
        wanted = [row for row in ROWS if start <= row < start + size]
        own = Piece(text[start : start + size], mine, start, [row - start for row in wanted])
        pieces = []
        for i, blocks in enumerate(others):
            new = int(rng.integers(0, 20))
            if new:
                ids = rng.integers(0, VOCABULARY, new).tolist()
                pieces.append(Piece(ids, blocks, lengths[i], [new - 1]))
                lengths[i] = (lengths[i] + new) if lengths[i] + new < 70 else 0
        at = int(rng.integers(0, len(pieces) + 1))
        before = sum(len(piece.outputs) for piece in pieces[:at])
        pieces.insert(at, own)
        out = executable.run(make_step(pieces))[before : before + len(wanted)].copy()
        results.update(zip(wanted, out, strict=True))
        start += size
    assert start == LENGTH
    equal(np.stack([results[row] for row in ROWS]), alone)


# What attention can do beside: one op over rows from tables, so that nothing hides a difference.

MECHANISMS = {
    "window": AttentionSpec(4, 2, 40, window=20, sinks="sinks"),
    "long-window": AttentionSpec(6, 2, 72, value_head_dim=40, window=259),
    "softcap": AttentionSpec(4, 2, 64, softcap=2.0, chunk=100),
    "alibi": AttentionSpec(3, 3, 32, alibi=8.0),
    "bidirectional": AttentionSpec(4, 2, 80, causal=False),
    "bidirectional-window": AttentionSpec(4, 2, 64, causal=False, window=33),
    "blocks": AttentionSpec(4, 4, 80, causal=False, block_diagonal=True),
}
BLOCK = 23  # rows


@pytest.mark.parametrize("kv_type", CACHE_TYPES)
@pytest.mark.parametrize("label", MECHANISMS)
def test_mechanisms(other_backend: Backend, label: str, kv_type: CacheType) -> None:
    """In pieces, with other threads, in other blocks, beside others: the same bits."""
    spec = MECHANISMS[label]
    rng = np.random.default_rng(5)
    weights = MemoryWeights.of(
        {
            name: rng.standard_normal((LENGTH, width)).astype(np.float32)
            for name, width in (
                ("q", spec.num_heads * spec.head_dim),
                ("k", spec.num_kv_heads * spec.head_dim),
                ("v", spec.num_kv_heads * spec.value_dim),
            )
        }
    ).add("sinks", rng.standard_normal(spec.num_heads).astype(np.float32))
    graph = weights.graph()
    q, k, v = (graph.embed(name) for name in "qkv")
    graph.output("hidden", graph.select_outputs(graph.attention(q, k, v, layer=0, spec=spec)))
    options = CompileOptions(
        max_rows=LENGTH + 70, max_outputs=LENGTH, num_kv_blocks=NUM_KV_BLOCKS, kv_type=kv_type
    )
    scrambled = rng.permutation(NUM_KV_BLOCKS).tolist()

    def outputs(executable: Executable, size: int, others: int = 0) -> NDArray[np.float32]:
        found = []
        for start in range(0, LENGTH, size):
            ids = range(start, min(start + size, LENGTH))
            pieces = [Piece(ids, scrambled[:10], start, range(len(ids)))]
            if others:
                pieces.insert(0, Piece(range(others), scrambled[10:], 0))
            step = make_step(pieces)
            starts = np.unique(
                [
                    *step.row_starts,
                    *(
                        row
                        for begin, end in pairwise(step.row_starts.tolist())
                        for row in range(begin, end, BLOCK)
                    ),
                ]
            )
            step = replace(step, block_starts=i32(starts)) if spec.block_diagonal else step
            found.append(executable.run(step, "hidden").copy())
        return np.concatenate(found)

    executables = [
        other_backend.compile(graph, weights, replace(options, num_threads=n)) for n in (1, 2)
    ]
    one, two = executables
    whole = outputs(one, LENGTH)
    equal(outputs(two, LENGTH), whole)
    equal(outputs(two, LENGTH, others=61), whole)
    if spec.causal or spec.block_diagonal:  # otherwise a row sees those that come in its step
        for size in (1, 7, 64) if spec.causal else (BLOCK, 3 * BLOCK):
            equal(outputs(one, size), whole)
            equal(outputs(two, size, others=5), whole)
    for executable in executables:
        executable.close()
