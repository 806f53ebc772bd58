"""Counts and latencies of an engine, over its life and over a bounded window.

The engine's thread writes, any thread reads a snapshot. It does not know what is measured.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["EngineStats", "Health", "Latency", "StatsRecorder"]

WINDOW = 4096
"""Latest measurements that percentiles are taken over."""


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution in seconds, over the last `WINDOW` measurements; ``count`` is of all.

    The figures are None until there is a measurement.
    """

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine did since it was started.

    Attributes:
        requests_running, requests_waiting: now.
        requests_finished, requests_failed, requests_cancelled: since the start.
        prompt_tokens: tokens of prompts and scored texts that were run through the model.
        cached_tokens: tokens of prompts that the prefix cache spared.
        generated_tokens: tokens sampled.
        steps: steps that were run.
        preemptions: how often a sequence had to give up its cache blocks.
        time_to_first_token: from the request to its first token.
        inter_token: between two tokens of one request.
        prompt_tokens_per_second, generated_tokens_per_second: over the time in which the engine
            was running steps that had such tokens; None before the first.
        memory: bytes by part.
        kv_blocks_used: cache blocks that running sequences hold.
        kv_blocks_cached: blocks kept for their contents that no sequence holds.
        kv_blocks_total: all blocks.
        uptime_s: seconds since the start.
    """

    requests_running: int = 0
    requests_waiting: int = 0
    requests_finished: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    time_to_first_token: Latency = field(default_factory=Latency)
    inter_token: Latency = field(default_factory=Latency)
    prompt_tokens_per_second: float | None = None
    generated_tokens_per_second: float | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    kv_blocks_used: int = 0
    kv_blocks_cached: int = 0
    kv_blocks_total: int = 0
    uptime_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether an engine can serve.

    Attributes:
        ok: a request sent now would be served.
        status: what the model is doing: see `tektra.LLM.status`.
        engine_alive: the thread that runs steps is there.
        last_error: message of the latest failure, whether or not it passed; None without one.
    """

    ok: bool
    status: str
    engine_alive: bool
    last_error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Window:
    """Latest measurements of one quantity."""

    __slots__ = ("count", "values")

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=WINDOW)
        self.count = 0

    def append(self, seconds: float) -> None:
        self.values.append(seconds)
        self.count += 1

    def latency(self) -> Latency:
        values = np.array(self.values.copy())
        if not values.size:
            return Latency()
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        return Latency(self.count, float(values.mean()), p50, p90, p99)


class StatsRecorder:
    """What the engine's thread counts while it works."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.outcomes: Counter[str] = Counter()
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.steps = 0
        self.decoded_tokens = 0
        self.prefill_seconds = self.decode_seconds = 0.0
        self.time_to_first_token = _Window()
        self.inter_token = _Window()

    def count_outcome(self, outcome: str | None) -> None:
        """One request ended: ``"finished"``, ``"failed"`` or ``"cancelled"``."""
        self.outcomes[outcome or "failed"] += 1

    def count_step(self, num_prompt: int, num_generated: int, seconds: float) -> None:
        """One step, with how many rows of prompts and how many of generated tokens.

        The time of a mixed step is shared out by rows.
        """
        self.steps += 1
        self.prompt_tokens += num_prompt
        self.decoded_tokens += num_generated
        share = num_prompt / max(1, num_prompt + num_generated)
        self.prefill_seconds += seconds * share
        self.decode_seconds += seconds * (1.0 - share)

    def rates(self) -> tuple[float | None, float | None]:
        """Prompt tokens and generated tokens per second of work on them.

        The first token of an answer comes with its prompt and does not count for the second.
        """
        return (
            _rate(self.prompt_tokens, self.prefill_seconds),
            _rate(self.decoded_tokens, self.decode_seconds),
        )


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0.0 else None
