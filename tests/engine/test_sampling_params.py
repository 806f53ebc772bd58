"""SamplingParams: every value is checked when it is made, and the error names the parameter."""

from __future__ import annotations

import dataclasses
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tektra.engine.sampling_params import SamplingParams
from tektra.errors import InvalidParameterError

NAMES = SamplingParams.parameter_names()
REALS = {
    # name: (values in range, values out of range)
    "temperature": ((0, 0.5, 100), (-0.1, 100.1)),
    "top_p": ((0, 1, 0.3), (-1e-9, 1.0001)),
    "min_p": ((0, 1), (-0.1, 1.1)),
    "typical_p": ((0, 1), (-0.1, 1.1)),
    "repetition_penalty": ((0.1, 100), (0, -1, 101)),
    "presence_penalty": ((-100, 100), (-101, 101)),
    "frequency_penalty": ((-100, 100), (-101, 101)),
    "dry_multiplier": ((0, 100), (-0.1, 101)),
    "dry_base": ((1, 100), (0.99, 101)),
    "xtc_probability": ((0, 1), (-0.1, 1.1)),
    "xtc_threshold": ((0, 1), (-0.1, 1.1)),
    "mirostat_tau": ((0.1, 100), (0, 101)),
    "mirostat_eta": ((0.01, 1), (0, 1.1)),
}
INTEGERS = {
    "max_tokens": ((1, 2**31 - 1), (0, -1, 2**31)),
    "min_tokens": ((0, 2**31 - 1), (-1, 2**31)),
    "top_k": ((0, 2**31 - 1), (-1, 2**31)),
    "penalty_last_n": ((-1, 0, 64), (-2, 2**31)),
    "dry_allowed_length": ((1, 2**31 - 1), (0, 2**31)),
    "dry_penalty_last_n": ((-1, 0), (-2, 2**31)),
    "mirostat": ((0, 2), (-1, 1, 3)),
    "seed": ((0, 2**64 - 1), (-1, 2**64)),
    "logprobs": ((0, 100), (-1, 101)),
}


def made(**settings: Any) -> SamplingParams:
    """As a caller without types writes it."""
    return SamplingParams(**settings)


def refused(**settings: Any) -> InvalidParameterError:
    with pytest.raises(InvalidParameterError) as error:
        SamplingParams(**settings)
    (name,) = settings
    assert error.value.parameter == name
    assert name in str(error.value)
    assert len(str(error.value)) < 400
    return error.value


def test_every_parameter_has_a_range_here_or_a_test_of_its_own() -> None:
    others = {
        "dry_sequence_breakers",
        "logit_bias",
        "stop",
        "stop_token_ids",
        "ignore_eos",
    }
    assert set(NAMES) == set(REALS) | set(INTEGERS) | others


def test_every_parameter_is_documented() -> None:
    assert SamplingParams.__doc__ is not None
    for name in NAMES:
        assert f"        {name}: " in SamplingParams.__doc__


@pytest.mark.parametrize("name", [*REALS, *INTEGERS])
def test_range(name: str) -> None:
    good, bad = {**REALS, **INTEGERS}[name]
    for value in good:
        assert getattr(made(**{name: value}), name) == value
    for value in bad:
        refused(**{name: value})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 10**400, True, "1", None, [1.0], 1j, np.bool_(True)]
)
def test_not_a_real(name: str, value: object) -> None:
    refused(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [math.nan, 1.0, 0.5, True, False, "1", [1], np.bool_(True), np.arange(3)]
)
def test_not_an_integer(name: str, value: object) -> None:
    refused(**{name: value})


def test_numbers_too_long_to_print() -> None:
    for name in INTEGERS:
        refused(**{name: 10**5000})
        refused(**{name: [10**5000]})
    refused(temperature=10**5000)


def test_none_is_only_for_what_can_be_left_open() -> None:
    for name in ("max_tokens", "seed", "logprobs", "logit_bias"):
        assert getattr(made(**{name: None}), name) is None
    for name in set(NAMES) - {"max_tokens", "seed", "logprobs", "logit_bias"}:
        refused(**{name: None})


def test_values_become_plain_python() -> None:
    params = made(
        top_k=np.int64(5),
        temperature=np.float32(0.5),
        top_p=Fraction(1, 2),
        seed=np.uint64(2**64 - 1),
        logit_bias={np.int32(3): np.float32(1.5)},
        stop_token_ids=np.array([1, 2]),
    )
    assert type(params.top_k) is int
    assert type(params.temperature) is float
    assert type(params.top_p) is float
    assert params.seed == 2**64 - 1
    assert params.stop_token_ids == (1, 2)
    assert params.logit_bias is not None
    assert [(type(k), type(v)) for k, v in params.logit_bias.items()] == [(int, float)]


def test_mirostat_1_is_named_in_the_remedy() -> None:
    assert "2" in (refused(mirostat=1).remedy or "")


def test_min_tokens_above_max_tokens() -> None:
    with pytest.raises(InvalidParameterError) as error:
        SamplingParams(min_tokens=5, max_tokens=4)
    assert error.value.parameter == "min_tokens"
    assert SamplingParams(min_tokens=4, max_tokens=4).min_tokens == 4


@pytest.mark.parametrize("name", ["stop", "dry_sequence_breakers"])
def test_strings(name: str) -> None:
    assert getattr(made(**{name: "ab"}), name) == ("ab",)
    assert getattr(made(**{name: ["a", "b"]}), name) == ("a", "b")
    assert getattr(made(**{name: []}), name) == ()
    for bad in ("", [""], [1], b"a", {"a": 1}, 5, ["x"] * 257, ["x" * 5000], iter(["a"])):
        refused(**{name: bad})


def test_stop_token_ids() -> None:
    assert made(stop_token_ids=[3, 1]).stop_token_ids == (3, 1)
    for bad in ("1", [-1], [True], [1.0], 3, [2**31], range(10**9)):
        refused(stop_token_ids=bad)


def test_logit_bias() -> None:
    params = made(logit_bias={7: -math.inf, 3: -100, 5: 100})
    assert params.logit_bias == {3: -100.0, 5: 100.0, 7: -math.inf}
    assert made(logit_bias={}).logit_bias is None
    for bad in (
        [1],
        {"1": 1.0},
        {-1: 1.0},
        {True: 1.0},
        {1: math.nan},
        {1: math.inf},
        {1: 101},
        {1: -101},
        {1: True},
        {1: None},
        dict.fromkeys(range(70000), 1.0),
    ):
        refused(logit_bias=bad)


def test_logit_bias_is_a_copy_and_cannot_be_changed() -> None:
    source = {1: 2.0}
    params = made(logit_bias=source)
    source[1] = 5.0
    assert params.logit_bias == {1: 2.0}
    with pytest.raises(TypeError):
        params.logit_bias[1] = 3.0  # type: ignore[index]


def test_ignore_eos_is_a_bool() -> None:
    assert SamplingParams(ignore_eos=True).ignore_eos
    refused(ignore_eos=1)


def test_immutable_and_hashable() -> None:
    params = made(logit_bias={1: 2.0, 5: 1.0}, stop=["x"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 3  # type: ignore[misc]
    same = made(logit_bias={5: 1.0, 1: 2.0}, stop="x")
    assert params == same
    assert hash(params) == hash(same)
    assert params != params.replace(logit_bias={1: 2.0})
    assert pickle.loads(pickle.dumps(params)) == params


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        SamplingParams(5)  # type: ignore[call-arg]


def test_greedy() -> None:
    params = SamplingParams.greedy(max_tokens=7)
    assert params.is_greedy
    assert (params.temperature, params.max_tokens) == (0.0, 7)
    assert not SamplingParams().is_greedy


def test_replace_is_checked() -> None:
    params = SamplingParams(seed=3)
    assert params.replace(top_k=5) == SamplingParams(seed=3, top_k=5)
    assert params.top_k == 40
    with pytest.raises(InvalidParameterError, match="top_k"):
        params.replace(top_k=-1)


@pytest.mark.parametrize("make", [SamplingParams.greedy, SamplingParams().replace])
def test_unknown_name(make: Any) -> None:
    with pytest.raises(InvalidParameterError, match="top_q") as error:
        make(top_q=1)
    assert error.value.parameter == "top_q"


def test_check_vocab() -> None:
    params = made(logit_bias={9: 1.0}, stop_token_ids=[8])
    params.check_vocab(10)
    with pytest.raises(InvalidParameterError) as error:
        params.check_vocab(9)
    assert error.value.parameter == "logit_bias"
    with pytest.raises(InvalidParameterError) as error:
        made(stop_token_ids=[8]).check_vocab(8)
    assert error.value.parameter == "stop_token_ids"


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(), st.text(max_size=2), st.floats()), max_size=3),
    st.dictionaries(st.one_of(st.integers(), st.text(max_size=2)), st.floats(), max_size=3),
    st.complex_numbers(),
)


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(NAMES), value=JUNK)
def test_any_value_is_accepted_or_refused_by_name(name: str, value: Any) -> None:
    refusal: InvalidParameterError | None = None
    try:
        params = made(**{name: value})
    except InvalidParameterError as error:
        refusal = error
    else:
        hash(params)
        assert made(**{n: getattr(params, n) for n in NAMES}) == params
    assert refusal is None or refusal.parameter == name
