"""The attention cases: head layouts and options, each over ragged batches with scrambled pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from tests.backends import formulas
from tests.backends.cases import MAX_ROWS, Case, Prepared, input_table, rng_of
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, i32, make_step, num_blocks
from tests.backends.tolerances import TOLERANCES

from tektra.backends.base import CacheType, Step
from tektra.graph import AttentionSpec

__all__ = ["NUM_BLOCKS", "attention_cases"]

NUM_BLOCKS = 40

SPECS = {
    "mha32": AttentionSpec(4, 4, 32),
    "mha64": AttentionSpec(2, 2, 64),
    "gqa64": AttentionSpec(9, 3, 64),
    "mqa64": AttentionSpec(4, 1, 64),
    "gqa80": AttentionSpec(4, 2, 80),
    "mha96": AttentionSpec(3, 3, 96),
    "gqa128": AttentionSpec(4, 1, 128),
    "gqa256": AttentionSpec(2, 1, 256),
    "odd18": AttentionSpec(3, 1, 18),
    "value64of96": AttentionSpec(4, 2, 96, value_head_dim=64),
    "value128of80": AttentionSpec(2, 2, 80, value_head_dim=128),
    "scale": AttentionSpec(4, 2, 64, scale=0.05),
    "window1": AttentionSpec(4, 2, 64, window=1),
    "window20": AttentionSpec(4, 2, 64, window=20),
    "window40": AttentionSpec(4, 2, 64, window=40),
    "softcap": AttentionSpec(4, 2, 64, softcap=1.5, scale=0.5),
    "sinks": AttentionSpec(4, 2, 64, sinks="sinks"),
    "sinks-window": AttentionSpec(4, 2, 64, sinks="sinks", window=8),
    "bidirectional": AttentionSpec(4, 2, 64, causal=False),
    "sharp": AttentionSpec(4, 2, 64, scale=0.5),
}
"""Over every batch."""

MORE_SPECS = {
    "gqa40": AttentionSpec(4, 2, 40),
    "mha72": AttentionSpec(3, 3, 72),
    "gqa112": AttentionSpec(4, 2, 112),
    "mqa160": AttentionSpec(3, 1, 160),
    "value128of192": AttentionSpec(2, 2, 192, value_head_dim=128),
    "mha256": AttentionSpec(2, 2, 256, softcap=50.0, window=24, scale=256**-0.5),
    "bidirectional-window20": AttentionSpec(4, 2, 64, causal=False, window=20),
    "bidirectional-window70": AttentionSpec(3, 3, 72, causal=False, window=70, sinks="sinks"),
    "chunk20": AttentionSpec(4, 2, 64, chunk=20),
    "chunk70-window40": AttentionSpec(4, 2, 64, chunk=70, window=40),
    "bidirectional-chunk9": AttentionSpec(4, 2, 64, causal=False, chunk=9),
    "blocks": AttentionSpec(4, 4, 80, causal=False, block_diagonal=True),
    "blocks-causal": AttentionSpec(4, 2, 64, block_diagonal=True),
    "blocks-window3": AttentionSpec(4, 2, 64, causal=False, block_diagonal=True, window=3),
    "alibi": AttentionSpec(4, 4, 64, alibi=8.0),
    "alibi-bidirectional": AttentionSpec(6, 6, 32, causal=False, alibi=8.0),
    "all": AttentionSpec(
        6,
        2,
        40,
        value_head_dim=72,
        scale=0.3,
        window=45,
        softcap=2.0,
        sinks="sinks",
        chunk=300,
        block_diagonal=True,
        alibi=4.0,
    ),
}

MORE_BATCHES = (5, 64, 130)

FLOAT32 = ("gqa64", "odd18", "value128of80", "bidirectional", "bidirectional-window70", "all")
"""What is also run over a cache of float32."""

BATCHES: dict[int, Sequence[tuple[int, int]]] = {
    1: [(0, 1)],
    2: [(31, 1), (64, 1)],
    5: [(511, 1), (255, 2), (256, 2)],
    3: [(250, 1), (32, 1), (95, 1)],
    7: [(0, 3), (40, 4)],
    64: [(0, 20), (5, 40), (70, 4)],
    130: [(0, 100), (33, 29), (95, 1)],
}
"""By rows in the step: (cached, new) tokens of each sequence."""


def attention_cases() -> Iterator[Case]:
    for label, spec in {**SPECS, **MORE_SPECS}.items():
        for rows, batch in BATCHES.items():
            if label in MORE_SPECS and rows not in MORE_BATCHES:
                continue
            yield _case(f"attention-F16-{rows}rows-{label}", spec, batch)
            yield _case(f"attention-INT8-{rows}rows-{label}", spec, batch, kv_type="int8")
            if label in FLOAT32:
                yield _case(f"attention-F32-{rows}rows-{label}", spec, batch, kv_type="f32")


def _case(
    name: str, spec: AttentionSpec, batch: Sequence[tuple[int, int]], kv_type: CacheType = "f16"
) -> Case:
    def prepare() -> Prepared:
        rng = rng_of(name)
        total = sum(cached + new for cached, new in batch)
        q = input_table(rng, total, spec.num_heads * spec.head_dim)
        k = input_table(rng, total, spec.num_kv_heads * spec.head_dim)
        v = input_table(rng, total, spec.num_kv_heads * spec.value_dim)
        if kv_type == "int8":  # so that sums of a rotated key are exact, in whatever order
            k, v = (np.rint(64 * x).astype(np.float32) / np.float32(64) for x in (k, v))
        weights = MemoryWeights.of({"q": q, "k": k, "v": v})
        if spec.sinks:
            weights.add("sinks", input_table(rng, 1, spec.num_heads, 2.0)[0])
        graph = weights.graph()
        q_rows, k_rows, v_rows = (graph.embed(name) for name in "qkv")
        out = graph.attention(q_rows, k_rows, v_rows, layer=0, spec=spec)
        graph.output("hidden", graph.select_outputs(out))
        order = rng.permutation(NUM_BLOCKS).tolist()
        first, earlier, last = 0, [], []
        for cached, new in batch:
            blocks = [order.pop() for _ in range(num_blocks(cached + new))]
            ids = range(first, first + cached + new)
            for start in range(0, cached, MAX_ROWS):
                part = ids[start : min(start + MAX_ROWS, cached)]
                earlier.append(_parted(make_step([Piece(part, blocks, start)])))
            last.append(Piece(ids[cached:], blocks, cached, range(new)))
            first += cached + new
        steps: list[Step] = [*earlier, _parted(make_step(last))]
        return Prepared(graph, weights, steps, lambda: _expected(weights, spec, batch, kv_type))

    tolerance = TOLERANCES["attention-int8" if kv_type == "int8" else "attention"]
    return Case(name, tolerance, prepare, kv_type)


def _block_sizes(num_rows: int) -> list[int]:
    """How the rows of a sequence are parted, where attention is within blocks: 7, 8, 9 ... rows."""
    sizes: list[int] = []
    while sum(sizes) < num_rows:
        sizes.append(min(7 + len(sizes), num_rows - sum(sizes)))
    return sizes


def _parted(step: Step) -> Step:
    sizes = [n for rows in np.diff(step.row_starts).tolist() for n in _block_sizes(rows)]
    return replace(step, block_starts=i32(np.cumsum([0, *sizes])))


def _expected(
    weights: MemoryWeights,
    spec: AttentionSpec,
    batch: Sequence[tuple[int, int]],
    kv_type: CacheType,
) -> formulas.F64:
    q = weights.floats("q").astype(float).reshape(-1, spec.num_heads, spec.head_dim)
    k = weights.floats("k").reshape(-1, spec.num_kv_heads, spec.head_dim)
    v = weights.floats("v").reshape(-1, spec.num_kv_heads, spec.value_dim)
    if kv_type == "f32":
        keys, values = k.astype(float), v.astype(float)
    elif kv_type == "f16":
        keys, values = (x.astype(np.float16).astype(float) for x in (k, v))
    else:
        keys, values = formulas.int8_keys(k), formulas.int8(v)
    sinks = weights.floats("sinks").astype(float) if spec.sinks else None
    rows, first = [], 0
    for cached, new in batch:
        own = slice(first, first + cached + new)
        start = cached
        for size in _block_sizes(new):
            block = range(start, start + size)
            rows += [
                formulas.attention_row(
                    q[first + slot], keys[own], values[own], slot, spec, sinks, block
                )
                for slot in block
            ]
            start += size
        first += cached + new
    return np.stack(rows)
