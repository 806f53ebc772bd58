"""Shared by the tests of sampling: short rows of logits, and what comes up of them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from tektra.engine.sampler import Sampler, make_sampler
from tektra.engine.sampling_params import SamplingParams

try:
    native: Any = importlib.import_module("tektra._native")
except ImportError:
    native = None

Row = NDArray[np.float32]
INF = math.inf
# Filters come before the temperature: at this one all that they leave is about equally likely.
HOT = 100.0
OPEN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Make(Protocol):
    def __call__(
        self, params: SamplingParams, vocab: int, seed: int = 0, breakers: Sequence[int] = ()
    ) -> Sampler: ...


IMPLEMENTATIONS = ("reference", "native")


def maker(implementation: str) -> Make:
    """Makes samplers of one implementation; skips the test where that is not built."""
    if implementation == "native" and native is None:
        pytest.skip("the native core is not built")
    module = native if implementation == "native" else None

    def make(
        params: SamplingParams, vocab: int, seed: int = 0, breakers: Sequence[int] = ()
    ) -> Sampler:
        return make_sampler(params, vocab, seed, breakers, module)

    return make


def row(*logits: float) -> Row:
    return np.array(logits, dtype=np.float32)


def of(probabilities: Sequence[float]) -> Row:
    logits: Row = np.log(np.array(probabilities)).astype(np.float32)
    return logits


def support(make: Make, logits: Row, *, draws: int = 300, **settings: Any) -> set[int]:
    """The tokens that come up."""
    params = SamplingParams(**{**OPEN, "temperature": HOT, **settings})
    sampler = make(params, logits.size, seed=11)
    return {sampler.sample(logits).token for _ in range(draws)}


def best(make: Make, logits: Row, history: Sequence[int], **settings: Any) -> int:
    """The best token after penalties."""
    breakers = settings.pop("breakers", ())
    sampler = make(SamplingParams.greedy(**settings), logits.size, breakers=breakers)
    sampler.accept(history)
    return sampler.sample(logits).token
