"""Checks a step before it runs, so that a wrong one never reads or writes outside its memory.

Knows the cache's geometry and the sizes that were compiled, nothing of how a step is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions, Step
from tektra.errors import BackendError
from tektra.formats.low_rank import LowRankUpdate
from tektra.graph import EmbedBy, Graph
from tektra.graph.ops import Embed

__all__ = ["blocks_needed", "check_adapters", "check_step", "check_update", "table_rows"]


def blocks_needed(num_tokens: int) -> int:
    """Cache blocks that hold so many tokens of a sequence."""
    return -(-num_tokens // KV_BLOCK_SIZE)


def table_rows(graph: Graph) -> dict[EmbedBy, int]:
    """Rows of the smallest table that is looked up by each kind of number."""
    rows = dict.fromkeys(EmbedBy, int(np.iinfo(np.int32).max))
    for op in graph.ops:
        if isinstance(op, Embed):
            rows[op.by] = min(rows[op.by], graph.shape(op.table)[0])
    return rows


def check_step(step: Step, options: CompileOptions, rows_of: Mapping[EmbedBy, int]) -> None:
    """Raises `BackendError` that says what is wrong with a step.

    ``rows_of`` says how many tokens, positions and segments the model knows (`table_rows`).

    Checked: types and lengths of the arrays; the sizes in ``options``; that token ids, positions,
    output rows and blocks are in range; that each sequence has rows and blocks enough; that no
    block that the step writes to belongs to two sequences.
    """
    num_rows, num_sequences = len(step.token_ids), len(step.num_cached)
    for name in ("token_ids", "positions", "row_starts", "num_cached", "output_rows"):
        _check_array(name, getattr(step, name), 1)
    _check_array("block_tables", step.block_tables, 2)
    _check(num_rows > 0 and num_sequences > 0, "it has no rows")
    _check(num_rows <= options.max_rows, f"it has {num_rows} rows of at most {options.max_rows}")
    _check(
        len(step.output_rows) <= options.max_outputs,
        f"it asks for {len(step.output_rows)} output rows of at most {options.max_outputs}",
    )
    _check(len(step.positions) == num_rows, "positions are not one for each row")
    _check(len(step.row_starts) == num_sequences + 1, "row_starts does not fit num_cached")
    _check(step.block_tables.shape[0] == num_sequences, "block_tables does not fit num_cached")
    _check_range("token_ids", step.token_ids, rows_of[EmbedBy.TOKEN])
    _check_range("positions", step.positions, rows_of[EmbedBy.POSITION])
    if step.segments is not None:
        _check_array("segments", step.segments, 1)
        _check(len(step.segments) == num_rows, "segments are not one for each row")
        _check_range("segments", step.segments, rows_of[EmbedBy.SEGMENT])
    _check_range("num_cached", step.num_cached, np.iinfo(np.int32).max)
    _check_range("output_rows", step.output_rows, num_rows)
    starts = step.row_starts.astype(np.int64)
    new = starts[1:] - starts[:-1]
    _check(step.row_starts[0] == 0 and step.row_starts[-1] == num_rows, "row_starts does not span")
    _check(bool((new > 0).all()), "a sequence has no rows")
    _check_blocks(step, new, options.num_kv_blocks)
    if step.block_starts is not None:
        _check_array("block_starts", step.block_starts, 1)
        blocks = step.block_starts.astype(np.int64)
        _check(
            len(blocks) > 1
            and blocks[0] == 0
            and blocks[-1] == num_rows
            and bool((blocks[1:] > blocks[:-1]).all())
            and bool(np.isin(starts, blocks).all()),
            "block_starts does not part the rows of each sequence",
        )


def check_adapters(step: Step, known: Collection[int]) -> None:
    """Raises `BackendError` where the adapters of a step are not among those known."""
    if step.adapters is None and step.adapter_scales is None:
        return
    if step.adapters is None or step.adapter_scales is None:
        raise BackendError("malformed step: adapters and their scales are not both there")
    shape = (step.num_sequences, *step.adapters.shape[1:2])
    _check_array("adapters", step.adapters, 2)
    _check(step.adapters.shape == shape, "adapters does not fit num_cached")
    _check(
        step.adapter_scales.shape == shape and step.adapter_scales.dtype == np.float32,
        "adapter_scales is not float32 of the shape of adapters",
    )
    for adapter in np.unique(step.adapters).tolist():
        _check(adapter == -1 or adapter in known, f"adapter {adapter} is not there")
    _check(
        bool(np.isfinite(step.adapter_scales[step.adapters >= 0]).all()),
        "an adapter's scale is not finite",
    )


def check_update(name: str, update: LowRankUpdate, linears: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `BackendError` where an adapter's update does not fit the linear of that name."""
    shape = linears.get(name)
    if shape is None:
        raise BackendError(f"{name!r} is not a matrix of a linear that can be adapted")
    rank = len(update.a)
    if rank == 0 or update.a.shape != (rank, shape[1]) or update.b.shape != (shape[0], rank):
        raise BackendError(
            f"an adapter of {update.b.shape} x {update.a.shape} does not fit {name!r}, "
            f"which is {shape}"
        )


def _check_blocks(step: Step, new: NDArray[np.int64], num_blocks: int) -> None:
    read: dict[int, int] = {}
    written: dict[int, int] = {}
    for sequence, table in enumerate(step.block_tables):
        cached = int(step.num_cached[sequence])
        needed = blocks_needed(cached + int(new[sequence]))
        _check(needed <= len(table), f"sequence {sequence} needs {needed} blocks, has {len(table)}")
        used = table[:needed].tolist()
        _check(
            all(0 <= block < num_blocks for block in used) and len(set(used)) == needed,
            f"the blocks of sequence {sequence} are not {needed} different ones below {num_blocks}",
        )
        _check(
            bool((table[needed:] == -1).all()),
            f"the block table of sequence {sequence} goes on behind the last block in use",
        )
        first_written = cached // KV_BLOCK_SIZE
        read.update(dict.fromkeys(used[:first_written], sequence))
        for block in used[first_written:]:
            _check(block not in written, f"block {block} is written by two sequences")
            written[block] = sequence
    shared = read.keys() & written.keys()
    _check(not shared, f"block {min(shared, default=-1)} is written by one and read by another")


def _check_array(name: str, array: NDArray[np.int32], ndim: int) -> None:
    _check(
        array.dtype == np.int32 and array.ndim == ndim and array.flags.c_contiguous,
        f"{name} is not a C-contiguous int32 array of {ndim} dimensions",
    )


def _check_range(name: str, array: NDArray[np.int32], end: int) -> None:
    bad = (array < 0) | (array >= end)
    if bad.any():
        row = int(bad.argmax())
        raise BackendError(f"malformed step: {name}[{row}] is {int(array[row])}, not in [0, {end})")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise BackendError(f"malformed step: {message}")
