"""Bounds on what an engine takes on: plain data, set when a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tektra.engine.sliding import SlidingContext

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Bounds on what an engine takes on.

    Attributes:
        context: most tokens of a sequence that the model reads.
        max_sequences: most sequences that run at once.
        max_waiting: most requests that may wait for that; None for no bound.
        prefix_cache: whether beginnings that were computed before are reused.
        seed: where the seeds of requests that name none come from, in order of arrival; None for
            the operating system's random numbers.
        whole: whether each sequence runs in one step as a whole, as encoders need it.
        step_rows: rows that are put together into one step, where sequences run whole; a longer
            sequence has one of its own.
        sliding: how texts that are generated go on beyond the context; None where they end there.
    """

    context: int
    max_sequences: int = 8
    max_waiting: int | None = None
    prefix_cache: bool = True
    seed: int | None = None
    whole: bool = False
    step_rows: int | None = None
    sliding: SlidingContext | None = None
