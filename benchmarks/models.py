"""Compiled models for the scripts in this folder, and steps of sequences that go on together.

It works on executables alone: neither tokenizer, sampler nor scheduler is in what is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions, Step
from tektra.backends.cpu import CpuBackend, CpuExecutable
from tektra.backends.cpu_peaks import Peaks
from tektra.formats.gguf import GGUFFile
from tektra.hub import resolve
from tektra.models.base import draw

__all__ = ["DEFAULT_MODEL", "Model", "bound_seconds", "int8_seconds", "open_model"]

DEFAULT_MODEL = "smollm2:135m"


@dataclass(frozen=True, slots=True)
class Model:
    """A compiled model.

    Attributes:
        name: of its file.
        executable: with blocks for `context` tokens of each of `sequences`.
        vocab_size: token ids are below it.
    """

    name: str
    executable: CpuExecutable
    vocab_size: int
    context: int
    sequences: int

    def together(self, start: int, end: int, sequences: int) -> Step:
        """Tokens ``start`` to ``end`` of each of so many sequences, with logits of the last."""
        count = end - start
        rng = np.random.default_rng(start)
        of_each = -(-self.context // KV_BLOCK_SIZE)
        used = np.arange(-(-end // KV_BLOCK_SIZE), dtype=np.int32)
        firsts = np.arange(sequences, dtype=np.int32) * of_each
        rows: NDArray[np.int32] = np.arange(sequences + 1, dtype=np.int32) * count
        return Step(
            token_ids=rng.integers(0, self.vocab_size, sequences * count, dtype=np.int32),
            positions=np.tile(np.arange(start, end, dtype=np.int32), sequences),
            row_starts=rows,
            num_cached=np.full(sequences, start, np.int32),
            block_tables=np.add.outer(firsts, used).astype(np.int32),
            output_rows=(rows[1:] - 1).astype(np.int32),
        )


@contextmanager
def open_model(
    reference: str,
    *,
    threads: int,
    isa: str,
    context: int,
    sequences: int = 1,
    max_rows: int = 512,
) -> Iterator[Model]:
    """A model by path or alias, closed at the end."""
    path = Path(resolve(reference).path)
    blocks = -(-context // KV_BLOCK_SIZE) * sequences
    options = CompileOptions(threads, max_rows, max(1, sequences), blocks)
    with GGUFFile.open(path) as file:
        drawn = draw(file.metadata, file.tensors)
        executable = CpuBackend(isa=isa or None).compile(drawn.graph, file, options)
    try:
        yield Model(path.name, executable, drawn.config.vocab_size, context, sequences)
    finally:
        executable.close()


def bound_seconds(executable: CpuExecutable, steps: Sequence[Step], peaks: Peaks) -> float:
    """The least time for steps: each reads weights and its cache from memory, or multiplies."""
    total = 0.0
    for step in steps:
        costs = executable.costs.costs(step)
        total += peaks.seconds(
            sum(cost.weights + cost.cache for cost in costs),
            sum(cost.int8 for cost in costs),
            sum(cost.floats for cost in costs),
        )
    return total


def int8_seconds(executable: CpuExecutable, steps: Sequence[Step], peaks: Peaks) -> float:
    """The least time for the multiply-adds of bytes alone: the matrices of a prefill."""
    operations = sum(cost.int8 for step in steps for cost in executable.costs.costs(step))
    return operations / peaks.int8_per_second
