"""Builds steps by hand, and feeds whole texts through an executable in any chunking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tektra.backends.base import KV_BLOCK_SIZE, Executable, Step
from tektra.graph import OutputName

__all__ = ["Piece", "i32", "make_step", "num_blocks", "run_text"]


def i32(values: ArrayLike) -> NDArray[np.int32]:
    return np.ascontiguousarray(values, np.int32)


def num_blocks(num_tokens: int) -> int:
    return -(-num_tokens // KV_BLOCK_SIZE)


@dataclass(frozen=True)
class Piece:
    """What one sequence brings to a step.

    Attributes:
        ids: its new tokens.
        blocks: ids of its cache blocks, as many as it ever needs.
        cached: its tokens that the cache holds already.
        outputs: rows whose result is wanted, counted from its first new token.
    """

    ids: Sequence[int]
    blocks: Sequence[int]
    cached: int = 0
    outputs: Sequence[int] = ()


def make_step(pieces: Sequence[Piece]) -> Step:
    """One step of several sequences; positions are slots."""
    starts = np.cumsum([0, *(len(p.ids) for p in pieces)])
    widest = max(num_blocks(p.cached + len(p.ids)) for p in pieces)
    tables = np.full((len(pieces), widest), -1)
    for table, p in zip(tables, pieces, strict=True):
        used = num_blocks(p.cached + len(p.ids))
        table[:used] = p.blocks[:used]
    return Step(
        token_ids=i32([token for p in pieces for token in p.ids]),
        positions=i32([p.cached + i for p in pieces for i in range(len(p.ids))]),
        row_starts=i32(starts),
        num_cached=i32([p.cached for p in pieces]),
        block_tables=i32(tables),
        output_rows=i32(
            [start + row for start, p in zip(starts, pieces, strict=False) for row in p.outputs]
        ),
    )


def run_text(
    executable: Executable,
    ids: Sequence[int],
    rows: Sequence[int],
    *,
    chunk: int | None = None,
    blocks: Sequence[int] | None = None,
    output: OutputName = "logits",
) -> NDArray[np.float32]:
    """Feeds a text alone, ``chunk`` tokens a step, and returns the outputs of the given rows."""
    chunk = chunk or executable.options.max_rows
    blocks = range(num_blocks(len(ids))) if blocks is None else blocks
    results: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        wanted = [row for row in rows if start <= row < start + len(part)]
        piece = Piece(part, blocks, start, [row - start for row in wanted])
        out = executable.run(make_step([piece]), output)
        results.update(zip(wanted, out.copy(), strict=True))
    return np.stack([results[row] for row in rows])
