"""The attention cases: head layouts and options, each over ragged batches with scrambled pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tests.backends import formulas
from tests.backends.cases import MAX_ROWS, Case, Prepared, input_table, rng_of
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step, num_blocks
from tests.backends.tolerances import TOLERANCES

from tektra.backends.base import Step
from tektra.config import KvType
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

BATCHES: dict[int, Sequence[tuple[int, int]]] = {
    1: [(0, 1)],
    2: [(31, 1), (64, 1)],
    3: [(250, 1), (32, 1), (95, 1)],
    7: [(0, 3), (40, 4)],
    64: [(0, 20), (5, 40), (70, 4)],
    130: [(0, 100), (33, 29), (95, 1)],
}
"""By rows in the step: (cached, new) tokens of each sequence."""


def attention_cases() -> Iterator[Case]:
    for label, spec in SPECS.items():
        for rows, batch in BATCHES.items():
            yield _case(f"attention-F16-{rows}rows-{label}", spec, batch)
            yield _case(f"attention-INT8-{rows}rows-{label}", spec, batch, kv_type="int8")


def _case(
    name: str, spec: AttentionSpec, batch: Sequence[tuple[int, int]], kv_type: KvType = "f16"
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
                earlier.append(make_step([Piece(part, blocks, start)]))
            last.append(Piece(ids[cached:], blocks, cached, range(new)))
            first += cached + new
        steps: list[Step] = [*earlier, make_step(last)]
        return Prepared(graph, weights, steps, lambda: _expected(weights, spec, batch, kv_type))

    tolerance = TOLERANCES["attention" if kv_type == "f16" else "attention-int8"]
    return Case(name, tolerance, prepare, kv_type)


def _expected(
    weights: MemoryWeights, spec: AttentionSpec, batch: Sequence[tuple[int, int]], kv_type: KvType
) -> formulas.F64:
    q = weights.floats("q").astype(float).reshape(-1, spec.num_heads, spec.head_dim)
    k = weights.floats("k").reshape(-1, spec.num_kv_heads, spec.head_dim)
    v = weights.floats("v").reshape(-1, spec.num_kv_heads, spec.value_dim)
    if kv_type == "f16":
        keys, values = (x.astype(np.float16).astype(float) for x in (k, v))
    else:
        keys, values = formulas.int8_keys(k), formulas.int8(v)
    sinks = weights.floats("sinks").astype(float) if spec.sinks else None
    rows, first = [], 0
    for cached, new in batch:
        own = slice(first, first + cached + new)
        rows += [
            formulas.attention_row(q[first + slot], keys[own], values[own], slot, spec, sinks)
            for slot in range(cached, cached + new)
        ]
        first += cached + new
    return np.stack(rows)
