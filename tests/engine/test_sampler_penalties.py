"""Repetition, presence and frequency penalties and DRY, worked out by hand: both samplers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.engine.sampler_testing import IMPLEMENTATIONS, INF, Make, best, maker, row

from tektra.engine.sampling_params import SamplingParams


@pytest.fixture(params=IMPLEMENTATIONS)
def make(request: pytest.FixtureRequest) -> Make:
    return maker(request.param)


# Penalties


def test_repetition_penalty(make: Make) -> None:
    # 2 / 1.3 = 1.54, 2 / 1.4 = 1.43
    assert best(make, row(2, 1.5), [0], repetition_penalty=1.3) == 0
    assert best(make, row(2, 1.5), [0], repetition_penalty=1.4) == 1
    # -1 * 1.15 = -1.15, -1 * 1.25 = -1.25; however often the token is there
    assert best(make, row(-1, -1.2), [0, 0, 0], repetition_penalty=1.15) == 0
    assert best(make, row(-1, -1.2), [0, 0, 0], repetition_penalty=1.25) == 1
    # below 1 it rewards: 1.4 / 0.6 = 2.33
    assert best(make, row(2, 1.4), [1], repetition_penalty=0.6) == 1


def test_presence_and_frequency_penalty(make: Make) -> None:
    logits, history = row(2, 1), [0, 0, 0]
    assert best(make, logits, history, presence_penalty=0.9) == 0
    assert best(make, logits, history, presence_penalty=1.1) == 1
    assert best(make, logits, history, frequency_penalty=0.32) == 0
    assert best(make, logits, history, frequency_penalty=0.34) == 1
    assert best(make, logits, history, frequency_penalty=0.2, presence_penalty=0.45) == 1
    assert best(make, logits, [1], presence_penalty=-1.1) == 1


def test_penalties_together_divide_before_they_subtract(make: Make) -> None:
    # 2 / 1.25 - 0.5 = 1.1; the other way round (2 - 0.5) / 1.25 = 1.2
    settings: dict[str, Any] = {"repetition_penalty": 1.25, "presence_penalty": 0.5}
    assert best(make, row(2, 1.15), [0], **settings) == 1
    assert best(make, row(2, 1.05), [0], **settings) == 0


def test_penalty_window_moves_and_counts_sampled_tokens(make: Make) -> None:
    logits = row(2, 1.5, 1.2)
    penalty: dict[str, Any] = {"presence_penalty": 1.0}
    assert best(make, logits, [0, 2, 2], penalty_last_n=3, **penalty) == 1
    assert best(make, logits, [0, 2, 2], penalty_last_n=2, **penalty) == 0
    assert best(make, logits, [0, 2, 2], penalty_last_n=0, **penalty) == 0
    sampler = make(SamplingParams.greedy(penalty_last_n=2, **penalty), 3)
    assert [sampler.sample(logits).token for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_penalty_of_many_tokens(make: Make) -> None:
    sampler = make(SamplingParams.greedy(presence_penalty=50, penalty_last_n=900), 1000)
    logits = np.random.default_rng(5).normal(size=1000).astype(np.float32)
    expected = np.argsort(-logits)[:900]
    taken = [sampler.sample(logits).token for _ in range(1000)]
    assert taken[:900] == expected.tolist()
    unseen = set(range(1000)) - set(taken[:900])
    assert taken[900] == max(unseen, key=lambda token: logits[token])


# DRY


def dry_penalty(make: Make, history: list[int], token: int, **settings: Any) -> float:
    """How much DRY takes from a token, found by bisection against an untouched rival."""
    rival = 49
    low, high = 0.0, 200.0
    for _ in range(30):
        middle = (low + high) / 2
        logits = np.full(50, -500, dtype=np.float32)
        logits[token], logits[rival] = 0, -middle
        chosen = best(make, logits, history, **{"dry_multiplier": 0.8, **settings})
        low, high = (middle, high) if chosen == rival else (low, middle)
    return low


def test_dry_grows_with_the_repetition(make: Make) -> None:
    history = [1, 2, 3, 4, 9, 1, 2, 3]  # 4 would make 1 2 3 4 come back: length 3
    assert dry_penalty(make, history, 4) == pytest.approx(0.8 * 1.75 ** (3 - 2), abs=1e-4)
    assert dry_penalty(make, history, 5) == pytest.approx(0, abs=1e-4)
    assert dry_penalty(make, history[:-1], 3) == pytest.approx(0.8, abs=1e-4)
    assert dry_penalty(make, history[:-2], 2) == pytest.approx(0, abs=1e-4)
    assert dry_penalty(make, history[:-2], 2, dry_allowed_length=1) == pytest.approx(0.8, abs=1e-4)
    assert dry_penalty(make, history, 4, dry_base=3.0, dry_allowed_length=1) == pytest.approx(
        0.8 * 9, abs=1e-4
    )
    assert dry_penalty(make, history, 4, dry_allowed_length=4) == pytest.approx(0, abs=1e-4)


def test_dry_takes_the_longest_of_several(make: Make) -> None:
    history = [2, 3, 4, 8, 1, 2, 3, 4, 9, 3, 5, 1, 2, 3]
    assert dry_penalty(make, history, 4) == pytest.approx(0.8 * 1.75, abs=1e-4)
    assert dry_penalty(make, history, 5, dry_allowed_length=1) == pytest.approx(0.8, abs=1e-4)


def test_dry_sees_overlapping_repetitions(make: Make) -> None:
    assert dry_penalty(make, [7, 7, 7, 7, 7], 7) == pytest.approx(0.8 * 1.75**2, abs=1e-4)


def test_dry_does_not_reach_across_a_breaker(make: Make) -> None:
    history = [1, 2, 3, 4, 9, 1, 2, 3]
    assert dry_penalty(make, history, 4, breakers=[1]) == pytest.approx(0.8, abs=1e-4)
    assert dry_penalty(make, history, 4, breakers=[2]) == pytest.approx(0, abs=1e-4)
    assert dry_penalty(make, history, 4, breakers=[3]) == pytest.approx(0, abs=1e-4)
    assert dry_penalty(make, history, 4, breakers=[4]) == pytest.approx(0, abs=1e-4)


def test_dry_window(make: Make) -> None:
    history = [1, 2, 3, 4, 9, 1, 2, 3]
    full = pytest.approx(0.8 * 1.75, abs=1e-4)
    assert dry_penalty(make, history, 4, dry_penalty_last_n=8) == full
    assert dry_penalty(make, history, 4, dry_penalty_last_n=7) == pytest.approx(0.8, abs=1e-4)
    assert dry_penalty(make, history, 4, dry_penalty_last_n=6) == pytest.approx(0, abs=1e-4)
    assert dry_penalty(make, history, 4, dry_penalty_last_n=0) == pytest.approx(0, abs=1e-4)


def test_dry_puts_last_and_does_not_exclude(make: Make) -> None:
    history = [1, 2] * 300  # the penalty would be 1.75 ** 600
    sampler = make(SamplingParams.greedy(dry_multiplier=0.8), 3)
    sampler.accept(history)
    assert sampler.sample(row(0, 500, 400)).token == 2
    sampler = make(SamplingParams.greedy(dry_multiplier=0.8), 3)
    sampler.accept(history)
    assert sampler.sample(row(-INF, 500, -INF)).token == 1
