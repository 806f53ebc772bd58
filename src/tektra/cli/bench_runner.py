"""Measures how fast a compiled model runs steps: prefill in chunks, decode one token at a time.

It works on the executable alone: neither tokenizer, sampler nor scheduler is in the figures. The
tokens are random; what they are does not change the work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, Executable, Step
from tektra.errors import InvalidParameterError

__all__ = ["BenchTest", "Measurement", "Runner", "measure", "plan_tests"]


@dataclass(frozen=True, slots=True)
class BenchTest:
    """One thing to measure.

    Attributes:
        kind: ``"prefill"``: ``tokens`` tokens in chunks of the executable's `max_rows`, with one
            output row at the end. ``"decode"``: ``tokens`` steps of one token.
        tokens: how many are timed.
        depth: how many tokens the cache holds before; filling it is not timed.
    """

    kind: str
    tokens: int
    depth: int

    @property
    def name(self) -> str:
        """``prefill512`` or ``decode128@0``; prefill at a depth has it too, unless it is 0."""
        depth = f"@{self.depth}" if self.kind == "decode" or self.depth else ""
        return f"{self.kind}{self.tokens}{depth}"

    @property
    def context(self) -> int:
        """Tokens that the cache must hold."""
        return self.depth + self.tokens


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rates of one test in tokens per second, over its repetitions.

    Attributes:
        test: name of the test.
        tokens_per_second: the median.
        stdev: sample standard deviation; 0 for a single repetition.
        samples: each repetition, in order.
    """

    test: str
    tokens_per_second: float
    mean: float
    min: float
    max: float
    stdev: float
    repetitions: int
    threads: int
    samples: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_tests(
    prefill: Sequence[int], decode: Sequence[int], depths: Sequence[int]
) -> list[BenchTest]:
    """All tests of the lists, prefill first; a length of 0 leaves a kind out.

    Raises:
        InvalidParameterError: nothing is left to measure.
    """
    tests = [BenchTest("prefill", n, depth) for depth in depths for n in prefill if n]
    tests += [BenchTest("decode", n, depth) for depth in depths for n in decode if n]
    if not tests:
        raise InvalidParameterError("prefill", "nothing is left to measure")
    return list(dict.fromkeys(tests))


def measure(
    executable: Executable,
    test: BenchTest,
    *,
    vocab_size: int,
    repetitions: int,
    seed: int = 0,
    after_each: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """Runs a test once to warm up, and then as often as asked, timed.

    Args:
        executable: with cache blocks for the test's `context`.
        vocab_size: tokens are drawn from 0 to this.
        repetitions: timed runs.
        seed: of the tokens.
        after_each: is told how many runs are done, the one to warm up included.

    Raises:
        BackendError: a step failed.
    """
    rng = np.random.default_rng(seed)
    runner = Runner(executable, rng.integers(0, vocab_size, test.context, dtype=np.int32))
    runner.advance(0, test.depth, executable.options.max_rows)
    chunk = executable.options.max_rows if test.kind == "prefill" else 1
    rates: list[float] = []
    for repetition in range(repetitions + 1):
        # Each run writes the same slots of the cache again.
        start = time.perf_counter()
        runner.advance(test.depth, test.context, chunk)
        seconds = time.perf_counter() - start
        if repetition:
            rates.append(test.tokens / seconds)
        after_each(repetition + 1)
    return Measurement(
        test=test.name,
        tokens_per_second=statistics.median(rates),
        mean=statistics.fmean(rates),
        min=min(rates),
        max=max(rates),
        stdev=statistics.stdev(rates) if len(rates) > 1 else 0.0,
        repetitions=repetitions,
        threads=executable.options.num_threads,
        samples=tuple(rates),
    )


class Runs(Protocol):
    """The part of `Executable` that is needed here."""

    def run(self, step: Step) -> NDArray[np.float32]: ...


class Runner:
    """One sequence whose cache is filled in order."""

    def __init__(self, executable: Runs, tokens: NDArray[np.int32]) -> None:
        self._executable = executable
        self._tokens = tokens
        num_blocks = -(-len(tokens) // KV_BLOCK_SIZE)
        self._blocks = np.arange(num_blocks, dtype=np.int32)
        self._no_rows = np.zeros(0, np.int32)

    def advance(self, start: int, end: int, chunk: int) -> None:
        """Runs the tokens from ``start`` to ``end``, at most ``chunk`` a step."""
        for step in self.steps(start, end, chunk):
            self._executable.run(step)

    def steps(self, start: int, end: int, chunk: int) -> Iterator[Step]:
        """The steps of `advance`.

        In a prefill only the last token's logits are wanted; in a decode every token's are.
        """
        for first in range(start, end, chunk):
            last = min(first + chunk, end)
            wanted = last == end or chunk == 1
            yield self._step(first, last, wanted)

    def _step(self, first: int, last: int, wanted: bool) -> Step:
        rows = last - first
        used = -(-last // KV_BLOCK_SIZE)
        table = np.full((1, len(self._blocks)), -1, np.int32)
        table[0, :used] = self._blocks[:used]
        return Step(
            token_ids=self._tokens[first:last],
            positions=np.arange(first, last, dtype=np.int32),
            row_starts=np.array([0, rows], np.int32),
            num_cached=np.array([first], np.int32),
            block_tables=table,
            output_rows=np.array([rows - 1], np.int32) if wanted else self._no_rows,
        )
