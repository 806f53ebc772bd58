"""The native sampler against the NumPy one: the same tokens and the same log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.sampler_testing import Row, native

from tektra.engine.reference_sampler import ReferenceSampler, uniform
from tektra.engine.sampler import make_sampler
from tektra.engine.sampling_params import Sampled, SamplingParams
from tektra.errors import TektraError

pytestmark = pytest.mark.skipif(native is None, reason="the native core is not built")

SHAPES = {
    "wide": lambda x: 3 * x,
    "narrow": lambda x: 0.01 * x,
    "equal": lambda x: 0 * x + 2.5,
    "ties": lambda x: np.round(2 * x),
    "peaked": lambda x: 2 * x + 12 * (x > 2.5),
    "huge": lambda x: 1e37 * x,
    "tiny": lambda x: 1e-30 * x,
}

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-3, 0.3, 0.8, 1.0, 2.0, 50.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 40, 200, 3000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    typical_p=st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.2, 0.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 1.5, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    penalty_last_n=st.sampled_from([-1, 0, 1, 3, 10]),
    dry_multiplier=st.sampled_from([0.0, 0.8, 3.0]),
    dry_base=st.sampled_from([1.0, 1.75, 50.0]),
    dry_allowed_length=st.sampled_from([1, 2, 3]),
    dry_penalty_last_n=st.sampled_from([-1, 5, 20]),
    xtc_probability=st.sampled_from([0.0, 0.5, 1.0]),
    xtc_threshold=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5]),
    mirostat=st.sampled_from([0, 0, 0, 2]),
    mirostat_tau=st.sampled_from([0.5, 3.0, 8.0]),
    mirostat_eta=st.sampled_from([0.1, 0.5]),
    logit_bias=st.sampled_from([None, {0: -100.0}, {0: 5.3, 1: -2.1}]),
    logprobs=st.sampled_from([None, 0, 1, 5, 100]),
)


def outcome(sampler: Any, logits: Row, **kwargs: Any) -> Sampled | tuple[str, str]:
    try:
        result: Sampled = sampler.sample(logits, **kwargs)
    except TektraError as error:
        return type(error).__name__, str(error)
    return result


def assert_same(expected: Sampled | tuple[str, str], got: Sampled | tuple[str, str]) -> None:
    if not isinstance(expected, Sampled) or not isinstance(got, Sampled):
        assert expected == got
        return
    assert got.token == expected.token
    assert [token for token, _ in got.top] == [token for token, _ in expected.top]
    assert (got.logprob is None) == (expected.logprob is None)
    pairs = [(e, g) for (_, e), (_, g) in zip(expected.top, got.top, strict=True)]
    if expected.logprob is not None and got.logprob is not None:
        pairs.append((expected.logprob, got.logprob))
    for e, g in pairs:
        # float32 distances of 1e37 between logits have no digits after the point
        assert g == pytest.approx(e, abs=1e-5, rel=1e-7)


@settings(max_examples=600, deadline=None)
@given(
    params=PARAMS,
    vocab=st.sampled_from([2, 7, 8, 9, 33, 128, 129, 300, 1000, 5000]),
    shape=st.sampled_from(sorted(SHAPES)),
    random=st.integers(0, 2**32 - 1),
    isa=st.sampled_from(["", "scalar"]),
    holes=st.booleans(),
    masked=st.booleans(),
    num_suppressed=st.sampled_from([0, 0, 2]),
    infinity=st.sampled_from([False, False, False, True]),
)
def test_same_as_reference(
    params: SamplingParams,
    vocab: int,
    shape: str,
    random: int,
    isa: str,
    holes: bool,
    masked: bool,
    num_suppressed: int,
    infinity: bool,
) -> None:
    rng = np.random.default_rng(random)
    breakers = [int(t) for t in rng.integers(0, vocab, 2)]
    seed = int(rng.integers(0, 2**64, dtype=np.uint64))
    reference = ReferenceSampler(params, vocab, seed=seed, breaker_ids=breakers)
    sampler = native.NativeSampler(params, vocab, seed=seed, breaker_ids=breakers, isa=isa)
    prompt = rng.integers(0, min(vocab, 5), int(rng.choice([0, 5, 60])))
    reference.accept(prompt)
    sampler.accept(prompt.tolist())
    for _ in range(3):
        logits = SHAPES[shape](rng.normal(size=vocab)).astype(np.float32)
        if holes:
            logits[rng.random(vocab) < 0.3] = -np.inf
        if infinity:
            logits[rng.integers(vocab)] = np.inf
        kwargs: dict[str, Any] = {
            "mask": rng.integers(0, 2**32, (vocab + 31) // 32, dtype=np.uint32) if masked else None,
            "suppressed": [int(t) for t in rng.integers(0, vocab, num_suppressed)],
        }
        assert_same(outcome(reference, logits, **kwargs), outcome(sampler, logits, **kwargs))
        assert sampler.num_generated == reference.num_generated


LARGE = {
    "default": SamplingParams(logprobs=20),
    "top-p": SamplingParams(top_k=0, min_p=0.0, logprobs=1),
    "top-p and min-p": SamplingParams(top_k=0),
    "typical": SamplingParams(top_k=0, top_p=1.0, min_p=0.0, typical_p=0.9),
    "typical, little": SamplingParams(top_k=0, top_p=0.9, typical_p=0.2),
    "temperature": SamplingParams(top_k=0, top_p=1.0, min_p=0.0, temperature=1.3),
    "xtc": SamplingParams(top_k=0, min_p=0.0, xtc_probability=1.0, xtc_threshold=0.01),
    "mirostat": SamplingParams(mirostat=2),
    "many": SamplingParams(top_k=30000, top_p=0.9),
    "many, typical": SamplingParams(top_k=30000, top_p=0.9, typical_p=0.8, min_p=0.0),
    "typical, cold": SamplingParams(top_k=0, typical_p=0.8, min_p=0.0, temperature=0.1),
    "xtc, all but the last": SamplingParams(
        top_k=0, min_p=0.0, xtc_probability=1.0, xtc_threshold=0.0
    ),
    "hot": SamplingParams(top_k=0, top_p=1.0, min_p=0.0, temperature=30.0),
    "cold": SamplingParams(top_k=0, min_p=0.0, temperature=0.05),
}

# Logits that are hard on buckets of values: on a grid, one far above, two narrow groups, a few far
# below all others.
HARD: dict[str, Callable[[np.random.Generator, Any], Any]] = {
    "grid": lambda rng, x: np.round(2 * x) / 2,
    "outlier": lambda rng, x: np.where(np.arange(x.size) == 777, 12.0, 0.01 * x),
    "two groups": lambda rng, x: 0.01 * x - 9.0 * (rng.random(x.size) < 0.7),
    "sentinels": lambda rng, x: np.where(rng.random(x.size) < 0.2, -1e30, x),
    "mostly banned": lambda rng, x: np.where(rng.random(x.size) < 0.9, -np.inf, x),
    "equal": lambda rng, x: 0 * x - 3.0,
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0])
def test_same_over_a_large_vocabulary(name: str, spread: float) -> None:
    vocab = 151_936
    rng = np.random.default_rng(int(spread * 10))
    reference = ReferenceSampler(LARGE[name], vocab, seed=9)
    sampler = native.NativeSampler(LARGE[name], vocab, seed=9)
    scalar = native.NativeSampler(LARGE[name], vocab, seed=9, isa="scalar")
    for _ in range(3):
        logits = (spread * rng.normal(size=vocab)).astype(np.float32)
        result = sampler.sample(logits)
        assert_same(reference.sample(logits), result)
        assert scalar.sample(logits) == result  # to the last bit


@pytest.mark.parametrize("shape", HARD)
@pytest.mark.parametrize("name", LARGE)
def test_same_where_buckets_are_hard(name: str, shape: str) -> None:
    vocab = 20_001
    rng = np.random.default_rng(4)
    reference = ReferenceSampler(LARGE[name], vocab, seed=5)
    sampler = native.NativeSampler(LARGE[name], vocab, seed=5)
    scalar = native.NativeSampler(LARGE[name], vocab, seed=5, isa="scalar")
    for _ in range(4):
        logits = HARD[shape](rng, rng.normal(size=vocab)).astype(np.float32)
        result = sampler.sample(logits)
        assert_same(reference.sample(logits), result)
        assert scalar.sample(logits) == result


def test_typical_where_keys_cannot_be_told_apart() -> None:
    """Values nearer to each other than the rounding of their distance from the entropy."""
    vocab = 5000
    params = SamplingParams(top_k=0, top_p=1.0, min_p=0.0, typical_p=0.95, temperature=1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = (1e-30 * rng.normal(size=vocab)).astype(np.float32)
        logits[rng.integers(0, vocab, 5)] -= 0.7
        reference = ReferenceSampler(params, vocab, seed=seed)
        sampler = native.NativeSampler(params, vocab, seed=seed)
        for _ in range(3):
            assert_same(reference.sample(logits), sampler.sample(logits))


def test_instruction_sets_agree_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    params = SamplingParams(logprobs=100, temperature=0.7, typical_p=0.9, top_k=0)
    for vocab in (1, 5, 8, 13, 127, 1001, 4099):
        best = native.NativeSampler(params, vocab, seed=1)
        scalar = native.NativeSampler(params, vocab, seed=1, isa="scalar")
        for _ in range(20):
            logits = (6 * rng.normal(size=vocab)).astype(np.float32)
            logits[rng.random(vocab) < 0.1] = -np.inf
            logits[0] = 1
            assert best.sample(logits) == scalar.sample(logits)


def test_random_numbers_agree_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for seed, index in rng.integers(0, 2**64, (200, 2), dtype=np.uint64):
        for purpose in (0, 1):
            expected = uniform(int(seed), int(index), purpose)
            assert native.sampler_uniform(int(seed), int(index), purpose) == expected


def test_exp_is_accurate() -> None:
    """A log-probability gives the sum of two exponentials away: log(1 + exp(-x))."""
    sampler = native.NativeSampler(SamplingParams.greedy(logprobs=0), 2, seed=0)
    for x in np.random.default_rng(0).uniform(0, 14, 2000).astype(np.float32):
        logprob: float = sampler.sample(np.array([0, -x], dtype=np.float32)).logprob
        error = math.expm1(-logprob) / math.exp(-float(x)) - 1
        # what is left of exp(-x) after 1 + exp(-x) was rounded to float64
        assert abs(error) < 1e-7 + 4e-16 * math.exp(float(x))


def test_samplers_share_scratch_across_threads() -> None:
    vocab = 20_000
    rows = np.random.default_rng(0).normal(size=(30, vocab)).astype(np.float32)
    params = SamplingParams(top_k=0, repetition_penalty=1.2, logprobs=3)
    scratch = native.SamplerScratch()

    def tokens(seed: int) -> list[Sampled]:
        sampler = make_sampler(params, vocab, seed, (), native, scratch)
        return [sampler.sample(row) for row in rows]

    expected = [tokens(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokens, range(6))) == expected
