"""The filters, their order and mirostat, against formulas worked out here: both samplers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.engine.sampler_testing import (
    HOT,
    IMPLEMENTATIONS,
    OPEN,
    Make,
    maker,
    of,
    row,
    support,
)

from tektra.engine.sampling_params import SamplingParams


@pytest.fixture(params=IMPLEMENTATIONS)
def make(request: pytest.FixtureRequest) -> Make:
    return maker(request.param)


# Filters


def test_top_k(make: Make) -> None:
    logits = row(5, 1, 3, 4, 3, 3)
    assert support(make, logits, top_k=1) == {0}
    assert support(make, logits, top_k=2) == {0, 3}
    assert support(make, logits, top_k=4) == {0, 2, 3, 4}  # of equals the first
    assert support(make, logits, top_k=0) == set(range(6))
    assert support(make, logits, top_k=600) == set(range(6))


@pytest.mark.parametrize("top_k", [1, 3, 40, 150, 299])
def test_top_k_of_many(make: Make, top_k: int) -> None:
    logits = np.random.default_rng(top_k).normal(size=300).astype(np.float32)
    expected = set(np.argsort(-logits)[:top_k].tolist())
    assert support(make, logits, draws=12 * top_k + 50, top_k=top_k) == expected


@pytest.mark.parametrize(
    ("top_p", "count"), [(0.0, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4), (1, 5)]
)
def test_top_p(make: Make, top_p: float, count: int) -> None:
    logits = of([0.2, 0.4, 0.08, 0.3, 0.02])
    assert support(make, logits, top_p=top_p) == set([1, 3, 0, 2, 4][:count])


def test_top_p_of_equals_takes_the_first(make: Make) -> None:
    assert support(make, row(1, 1, 1, 1), top_p=0.5) == {0, 1}
    assert support(make, row(1, 1, 1, 1), top_p=0.51) == {0, 1, 2}


def test_top_p_of_many(make: Make) -> None:
    logits = np.random.default_rng(1).normal(size=300).astype(np.float32)
    order = np.argsort(-logits)
    p = np.exp(logits[order].astype(np.float64))
    count = int((np.cumsum(p) / p.sum() < 0.5).sum()) + 1
    assert 20 < count < 100
    assert support(make, logits, draws=12 * count, top_p=0.5) == set(order[:count].tolist())


def test_min_p(make: Make) -> None:
    logits = of([0.5, 0.26, 0.24, 0.01])
    assert support(make, logits, min_p=0.0) == {0, 1, 2, 3}
    assert support(make, logits, min_p=0.1) == {0, 1, 2}
    assert support(make, logits, min_p=0.5) == {0, 1}
    assert support(make, logits, min_p=0.9) == {0}
    assert support(make, row(3, 3, 2), min_p=1.0) == {0, 1}


def test_typical_p_drops_the_too_probable(make: Make) -> None:
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    entropy = -(p * np.log(p)).sum()
    order = np.argsort(np.abs(-np.log(p) - entropy))
    assert order[0] == 1  # not the most probable one
    logits = of(p.tolist())
    cumulative = np.cumsum(p[order])
    for count in (1, 2, 3, 4):
        for mass in (cumulative[count - 1] - 0.01, cumulative[count - 1] - 0.001):
            expected = set(order[:count].tolist())
            assert support(make, logits, typical_p=float(mass)) == expected


def test_typical_p_prefers_many_improbable_to_a_few_probable(make: Make) -> None:
    # Mass 0.4 on 4 tokens, 0.5 and 0.1 on some 15,000 each, whose surprise is 8 and 9.6 higher.
    # The entropy lies nearest to the second group, then the third.
    sizes = (4, round(5 * math.exp(8)), round(math.exp(9.6)))
    logits = np.repeat([0.0, -8.0, -9.6], sizes).astype(np.float32)
    tokens = support(make, logits, draws=200, typical_p=0.55)
    assert min(tokens) >= 4
    assert any(token >= sizes[0] + sizes[1] for token in tokens)
    # half of the third group makes up the 0.05 that is wanted of it
    assert max(tokens) < sizes[0] + sizes[1] + 0.52 * sizes[2]


def test_xtc(make: Make) -> None:
    logits = of([0.4, 0.3, 0.2, 0.1])
    always: dict[str, Any] = {"xtc_probability": 1.0}
    assert support(make, logits, xtc_threshold=0.15, **always) == {2, 3}
    assert support(make, logits, xtc_threshold=0.25, **always) == {1, 2, 3}
    assert support(make, logits, xtc_threshold=0.35, **always) == {0, 1, 2, 3}
    assert support(make, logits, xtc_threshold=0.0, **always) == {3}
    assert support(make, logits, xtc_threshold=0.15, xtc_probability=0.0) == {0, 1, 2, 3}
    # of equals, the first go
    assert support(make, row(1, 1, 1, 1), xtc_threshold=0.2, **always) == {3}


def test_xtc_probability(make: Make) -> None:
    logits = of([0.6, 0.4])
    params = SamplingParams(**OPEN, temperature=1e-3, xtc_probability=0.3, xtc_threshold=0.1)
    sampler = make(params, 2, seed=4)
    count = sum(sampler.sample(logits).token for _ in range(2000))
    assert abs(count - 600) < 4 * math.sqrt(2000 * 0.3 * 0.7)


def test_filters_see_what_the_ones_before_left(make: Make) -> None:
    logits = of([0.4, 0.3, 0.2, 0.1])
    # after top-k 2 the best has 0.57 of what is left
    assert support(make, logits, top_k=2, top_p=0.5) == {0}
    assert support(make, logits, top_k=3, top_p=0.5) == {0, 1}
    # XTC after min-p: of 0.4, 0.3, 0.2 the last has 0.22
    assert support(make, logits, min_p=0.4, xtc_probability=1.0, xtc_threshold=0.21) == {2}
    # typical before top-p: 0.3 is the most typical and all of what is left
    assert support(make, logits, typical_p=0.2, top_p=0.1) == {1}


def test_temperature_comes_after_the_filters(make: Make) -> None:
    logits = of([0.4, 0.3, 0.2, 0.1])
    for temperature in (1.0, 10.0, HOT):
        assert support(make, logits, top_p=0.6, temperature=temperature) == {0, 1}


# Mirostat


@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_mirostat_steers_the_surprise_to_its_target(make: Make, tau: float) -> None:
    vocab = 5000
    logits = (-1.05 * np.log(np.arange(1, vocab + 1))).astype(np.float32)  # Zipf
    p = np.exp(logits.astype(np.float64))
    p /= p.sum()
    params = SamplingParams(mirostat=2, mirostat_tau=tau, mirostat_eta=0.1, temperature=1.0)
    sampler = make(params, vocab, seed=2)
    tokens = [sampler.sample(logits).token for _ in range(2500)]
    # The bound is steered by the surprise among the tokens that are left. Where it stays about
    # the same, those are about the tokens that come up at all.
    left = p[: int(np.quantile(tokens[500:], 0.995)) + 1]
    surprise = -np.log2(p[tokens[500:]] / left.sum())
    assert surprise.mean() == pytest.approx(tau, abs=0.2)
    open_sampler = make(SamplingParams(**OPEN, temperature=1.0), vocab, seed=2)
    plain = -np.log2(p[[open_sampler.sample(logits).token for _ in range(1000)]])
    assert plain.mean() > 7.0


def test_mirostat_replaces_the_filters(make: Make) -> None:
    settings: dict[str, Any] = {"mirostat": 2, "mirostat_tau": 90.0, "temperature": HOT}
    assert support(make, row(1, 2, 3), top_k=1, **settings) == {0, 1, 2}
