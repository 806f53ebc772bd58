"""Lays out the arrays of a step from what was scheduled.

It knows tokens and cache blocks; it neither chooses sequences nor runs the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import Step
from tektra.engine.scheduler import ScheduledRows

__all__ = ["build_step"]


def build_step(batch: Sequence[ScheduledRows]) -> Step:
    """The step that runs the scheduled rows, sequence after sequence."""
    tokens: list[int] = []
    positions: list[int] = []
    row_starts = [0]
    num_cached: list[int] = []
    output_rows: list[int] = []
    segments: list[int] = []
    has_segments = False
    width = max(item.sequence.num_blocks for item in batch)
    tables = np.full((len(batch), width), -1, dtype=np.int32)
    for index, item in enumerate(batch):
        sequence = item.sequence
        start = sequence.num_computed
        end = start + item.num_rows
        tokens += sequence.tokens[start:end]
        positions += range(start, end)
        row_starts.append(len(tokens))
        num_cached.append(start)
        first = len(tokens) - item.num_rows + max(0, sequence.first_output - start)
        output_rows += range(first, first + item.num_outputs)
        segments += sequence.segments or [0] * item.num_rows
        has_segments = has_segments or sequence.segments is not None
        tables[index, : sequence.num_blocks] = sequence.blocks[: sequence.num_blocks]
    adapters, scales = _adapters(batch)
    return Step(
        token_ids=np.array(tokens, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        row_starts=np.array(row_starts, dtype=np.int32),
        num_cached=np.array(num_cached, dtype=np.int32),
        block_tables=tables,
        output_rows=np.array(output_rows, dtype=np.int32),
        segments=np.array(segments, dtype=np.int32) if has_segments else None,
        adapters=adapters,
        adapter_scales=scales,
    )


def _adapters(
    batch: Sequence[ScheduledRows],
) -> tuple[NDArray[np.int32] | None, NDArray[np.float32] | None]:
    most = max(len(item.sequence.adapters) for item in batch)
    if not most:
        return None, None
    ids = np.full((len(batch), most), -1, dtype=np.int32)
    scales = np.zeros((len(batch), most), dtype=np.float32)
    for index, item in enumerate(batch):
        for place, (adapter, scale) in enumerate(item.sequence.adapters):
            ids[index, place], scales[index, place] = adapter, scale
    return ids, scales
