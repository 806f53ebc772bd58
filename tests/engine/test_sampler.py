"""What is excluded, the draw and what is reported, against formulas: both samplers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.sampler_testing import (
    IMPLEMENTATIONS,
    INF,
    OPEN,
    Make,
    best,
    maker,
    of,
    row,
    support,
)

from tektra.engine.reference_sampler import DRAW_TOKEN, philox4x32, uniform
from tektra.engine.sampling_params import SamplingParams
from tektra.errors import BackendError, InvalidParameterError, RequestError


@pytest.fixture(params=IMPLEMENTATIONS)
def make(request: pytest.FixtureRequest) -> Make:
    return maker(request.param)


# Greedy


def test_greedy_takes_the_best_and_of_equals_the_first(make: Make) -> None:
    sampler = make(SamplingParams.greedy(), 5)
    assert sampler.sample(row(0, 3, 1, 3, 2)).token == 1
    assert sampler.sample(row(-INF, -INF, -3, -INF, -INF)).token == 2
    assert sampler.sample(row(0, 3, INF, INF, 2)).token == 2


def test_greedy_ignores_filters_and_mirostat(make: Make) -> None:
    logits = row(1, 2, 2.5, 0)
    for settings in ({"xtc_probability": 1.0, "xtc_threshold": 0.0}, {"mirostat": 2}):
        assert make(SamplingParams.greedy(**settings), 4).sample(logits).token == 2


@pytest.mark.parametrize("vocab", [1, 7, 8, 127, 128, 129, 1000])
def test_greedy_finds_every_place(make: Make, vocab: int) -> None:
    sampler = make(SamplingParams.greedy(), vocab)
    for place in {0, vocab // 2, vocab - 1}:
        logits = np.full(vocab, -5, dtype=np.float32)
        logits[place] = -4
        assert sampler.sample(logits).token == place


# What may not be chosen


def test_mask_suppressed_and_bans_exclude(make: Make) -> None:
    logits = np.arange(70, dtype=np.float32)
    mask = np.zeros(3, dtype=np.uint32)
    for token in (3, 31, 32, 64, 69):
        mask[token // 32] |= np.uint32(1 << token % 32)
    sampler = make(SamplingParams.greedy(), 70)
    assert sampler.sample(logits, mask=mask).token == 69
    assert sampler.sample(logits, mask=mask, suppressed=[69]).token == 64
    assert sampler.sample(logits, mask=mask, suppressed=[69, 64, 32]).token == 31
    for ban in (-100, -INF):
        sampler = make(SamplingParams.greedy(logit_bias={69: ban, 64: ban}), 70)
        assert sampler.sample(logits, mask=mask).token == 32
        assert sampler.sample(logits).token == 68


def test_excluded_tokens_never_come_up(make: Make) -> None:
    logits = row(1, -INF, 2, 3, 0, 1)
    assert support(make, logits, logit_bias={3: -100}) == {0, 2, 4, 5}
    assert support(make, row(1, INF, 0, INF)) == {1, 3}


def test_a_banned_token_stays_banned_though_infinite(make: Make) -> None:
    assert support(make, row(1, INF, 0), logit_bias={1: -INF}) == {0, 2}


def test_bias_is_added(make: Make) -> None:
    logits = row(1, 2, 3)
    assert best(make, logits, (), logit_bias={0: 1.9}) == 2
    assert best(make, logits, (), logit_bias={0: 2.1}) == 0


def test_nothing_left(make: Make) -> None:
    for settings, kwargs in (
        ({"logit_bias": {0: -100, 1: -INF}}, {}),
        ({}, {"mask": np.zeros(1, dtype=np.uint32)}),
        ({}, {"suppressed": [0, 1]}),
        ({"logit_bias": {0: -100}}, {"mask": np.array([1], dtype=np.uint32)}),
    ):
        sampler = make(SamplingParams(**settings), 2)
        with pytest.raises(RequestError, match="leave no token"):
            sampler.sample(row(1, 2), **kwargs)
        assert sampler.num_generated == 0


def test_broken_logits(make: Make) -> None:
    for params in (SamplingParams(), SamplingParams.greedy(logprobs=3)):
        sampler = make(params, 300)
        for place in (0, 150, 299):
            logits = np.zeros(300, dtype=np.float32)
            logits[place] = np.nan
            with pytest.raises(BackendError, match="NaN"):
                sampler.sample(logits)
            with pytest.raises(BackendError, match="NaN"):
                sampler.sample(logits, suppressed=[place])
            with pytest.raises(BackendError, match="NaN"):
                sampler.sample(logits, mask=np.zeros(10, dtype=np.uint32))
        with pytest.raises(BackendError, match="-inf for every token"):
            sampler.sample(np.full(300, -np.inf, dtype=np.float32))
    sampler = make(SamplingParams(logit_bias={5: -100}), 300)
    logits = np.zeros(300, dtype=np.float32)
    logits[5] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        sampler.sample(logits)


def test_wrong_arguments(make: Make) -> None:
    sampler = make(SamplingParams(), 40)
    good = np.zeros(40, dtype=np.float32)
    for bad in (
        np.zeros(39, dtype=np.float32),
        np.zeros((1, 40), dtype=np.float32),
        np.zeros(40),
        np.zeros(80, dtype=np.float32)[::2],
        [0.0] * 40,
        None,
    ):
        with pytest.raises(InvalidParameterError, match="logits"):
            sampler.sample(bad)  # type: ignore[arg-type]
    for mask in (
        np.zeros(1, dtype=np.uint32),
        np.zeros(2, dtype=np.int32),
        np.zeros((1, 2), dtype=np.uint32),
        [1, 1],
    ):
        with pytest.raises(InvalidParameterError, match="mask"):
            sampler.sample(good, mask=mask)  # type: ignore[arg-type]
    for ids in ([40], [-1], [2**40], [1.5], ["a"], 3):
        with pytest.raises(InvalidParameterError, match="suppressed"):
            sampler.sample(good, suppressed=ids)  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterError, match="tokens"):
            sampler.accept(ids)  # type: ignore[arg-type]
    assert sampler.num_generated == 0
    with pytest.raises(InvalidParameterError, match="breaker_ids"):
        make(SamplingParams(), 40, breakers=[40])
    with pytest.raises(InvalidParameterError, match="logit_bias"):
        make(SamplingParams(logit_bias={40: 1.0}), 40)
    for seed in (-1, 2**64):
        with pytest.raises(InvalidParameterError, match="seed"):
            make(SamplingParams(), 40, seed=seed)
    for vocab in (0, -1):
        with pytest.raises(InvalidParameterError, match="vocab_size"):
            make(SamplingParams(), vocab)


def test_logits_are_not_modified(make: Make) -> None:
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    before = logits.copy()
    logits.flags.writeable = False
    params = SamplingParams(
        logit_bias={1: 5.0, 2: -100},
        repetition_penalty=1.3,
        dry_multiplier=1.0,
        logprobs=5,
        xtc_probability=1.0,
    )
    sampler = make(params, 500)
    sampler.accept([1, 2, 3, 1, 2])
    for _ in range(5):
        sampler.sample(logits, mask=np.full(16, 0xFFFFFFFF, dtype=np.uint32), suppressed=[7])
    assert (logits == before).all()


# The draw


def chi_square(counts: Counter[int], expected: NDArray[np.float64], draws: int) -> float:
    return float(sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in enumerate(expected)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(make: Make, temperature: float) -> None:
    logits = row(1, -1, 0.5, 2, 0, 0.25, 1.5, -0.5, 1.75, 0.75)
    p = np.exp(logits.astype(np.float64) / temperature)
    draws = 6000
    sampler = make(SamplingParams(**OPEN, temperature=temperature), 10, seed=7)
    counts = Counter(sampler.sample(logits).token for _ in range(draws))
    # 9 degrees of freedom: one in 10,000 correct samplers would exceed this, for a given seed
    assert chi_square(counts, p / p.sum(), draws) < 33.7


def test_frequencies_after_filters(make: Make) -> None:
    logits = of([0.3, 0.05, 0.25, 0.2, 0.1, 0.1])
    draws = 5000
    sampler = make(SamplingParams(top_k=4, top_p=0.85, min_p=0.1, temperature=1.0), 6, seed=3)
    counts = Counter(sampler.sample(logits).token for _ in range(draws))
    assert set(counts) == {0, 2, 3}
    expected = np.array([0.3, 0, 0.25, 0.2]) / 0.75
    got = Counter({i: counts[t] for i, t in enumerate((0, 2, 3))})
    assert chi_square(got, expected[[0, 2, 3]], draws) < 18.4  # 2 degrees of freedom, 1 in 10,000


def test_the_draw_is_the_number_of_the_seed_and_the_counter(make: Make) -> None:
    vocab = 100_003
    logits = np.zeros(vocab, dtype=np.float32)
    for seed in (0, 1, 2**32, 2**64 - 1):
        sampler = make(SamplingParams(**OPEN), vocab, seed=seed)
        for index in range(4):
            assert sampler.num_generated == index
            token = sampler.sample(logits).token
            assert token == int(uniform(seed, index, DRAW_TOKEN) * vocab)


def test_same_seed_same_tokens_whatever_the_prompt(make: Make) -> None:
    logits = np.random.default_rng(0).normal(size=200).astype(np.float32)

    def tokens(seed: int, prompt: Sequence[int]) -> list[int]:
        sampler = make(SamplingParams(), 200, seed=seed)
        sampler.accept(prompt)
        return [sampler.sample(logits).token for _ in range(40)]

    assert tokens(5, ()) == tokens(5, [1, 2, 3])
    assert tokens(5, ()) != tokens(6, ())


def test_extreme_temperatures(make: Make) -> None:
    logits = row(1, 3, 2.999)
    sampler = make(SamplingParams(**OPEN, temperature=1e-300), 3)
    assert {sampler.sample(logits).token for _ in range(50)} == {1}
    assert support(make, row(3e38, -3e38, 3e38), temperature=1.0) == {0, 2}


# Log-probabilities


def test_logprobs_are_those_of_the_model(make: Make) -> None:
    rng = np.random.default_rng(3)
    logits = (4 * rng.normal(size=1000)).astype(np.float32)
    shifted = [float(x) for x in logits - logits.max()]
    log_total = math.log(math.fsum(math.exp(x) for x in shifted))
    order = np.argsort(-logits)
    banned = int(order[0])
    params = SamplingParams(
        logprobs=5, temperature=0.3, logit_bias={banned: -100, 5: 3.0}, repetition_penalty=1.5
    )
    sampler = make(params, 1000)
    sampler.accept(order[:20])
    result = sampler.sample(logits, suppressed=[int(order[1])])
    assert result.token not in order[:2]
    assert result.logprob == pytest.approx(shifted[result.token] - log_total, abs=1e-5)
    assert [token for token, _ in result.top] == order[:5].tolist()
    for token, logprob in result.top:
        assert logprob == pytest.approx(shifted[token] - log_total, abs=1e-5)


def test_how_many_logprobs(make: Make) -> None:
    logits = row(1, 2, -INF, 2)
    none = make(SamplingParams(), 4).sample(logits)
    assert (none.logprob, none.top) == (None, ())
    chosen = make(SamplingParams(logprobs=0), 4).sample(logits)
    assert chosen.logprob is not None
    assert chosen.top == ()
    assert isinstance(chosen, tuple)
    every = make(SamplingParams(logprobs=100), 4).sample(logits)
    assert [token for token, _ in every.top] == [1, 3, 0]  # never one that is impossible
    assert math.fsum(math.exp(q) for _, q in every.top) == pytest.approx(1)


def test_logprobs_with_infinity(make: Make) -> None:
    result = make(SamplingParams(logprobs=3), 4).sample(row(1, INF, 2, INF))
    assert [t for t, _ in result.top] == [1, 3]
    assert result.logprob == pytest.approx(-math.log(2))


# Random numbers


def test_philox_known_answers() -> None:
    """The vectors of Random123, kat_vectors, philox4x32 with ten rounds."""
    full = 0xFFFFFFFF
    assert philox4x32((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox4x32((full,) * 4, (full,) * 2) == (
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    )
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    key = (0xA4093822, 0x299F31D0)
    assert philox4x32(pi, key) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_uniform_is_uniform() -> None:
    numbers = np.array([uniform(1, i, DRAW_TOKEN) for i in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((counts - 200) ** 2 / 200).sum() < 50  # 19 degrees of freedom, 1 in 10,000
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.06
