"""How the next token is chosen from the logits: every setting, its range and where it comes from.

Knows no model and no tokenizer: token ids are checked against a vocabulary later, by
`SamplingParams.check_vocab`. The choosing itself is in `reference_sampler.py` and `native/core`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, Self, SupportsIndex, cast

from tektra.errors import InvalidParameterError

__all__ = [
    "BAN_BIAS",
    "DEFAULT_DRY_SEQUENCE_BREAKERS",
    "MAX_LOGPROBS",
    "Sampled",
    "SamplingParams",
]

BAN_BIAS = -100.0
"""A logit bias at or below this takes the token out of the running altogether."""

MAX_LOGPROBS = 100
"""The most alternatives that can be reported for one token."""

DEFAULT_DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")

_INT32_MAX = 2**31 - 1
_UINT64_MAX = 2**64 - 1
_MAX_STRINGS = 256
_MAX_STRING_LENGTH = 4096
_MAX_IDS = 65536


class Sampled(NamedTuple):
    """One sampled token.

    Attributes:
        token: its id.
        logprob: natural log of the probability that the model itself gives it, that is the
            log-softmax of the raw logits, before bias, penalties and temperature. None unless
            `SamplingParams.logprobs` asked for it.
        top: the most probable tokens by the same measure, best first, ties by lower id; never one
            with probability 0.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class TokenBias(Mapping[int, float]):
    """An immutable, hashable map of token id to logit bias."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[int, float]) -> None:
        self._items = dict(sorted(items.items()))

    def __getitem__(self, token: int) -> float:
        return self._items[token]

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Settings of one request; immutable, hashable, checked when made.

    The steps run in this order: logit bias and masks, repetition/presence/frequency penalties,
    DRY, top-k, typical, top-p, min-p, XTC, temperature, draw. Candidates are ordered by logit
    (highest first), equal logits by token id (lowest first), and every filter leaves at least one
    token, so that a seed determines the outcome. `mirostat=2` takes the place of the filters from
    top-k to XTC and runs after the temperature. `temperature=0` takes the best token after bias,
    masks, penalties and DRY; filters, mirostat and the seed then change nothing.

    Attributes:
        max_tokens: most tokens to generate, 1 to 2^31-1. None: until the context is full.
        min_tokens: tokens before which the end of the text is not allowed, 0 to `max_tokens`.
        temperature: logits are divided by it, 0 to 100. 0 means greedy: the best token, always.
            (Ackley, Hinton, Sejnowski 1985.)
        top_k: keep the k best tokens; 0 keeps all. (Fan, Lewis, Dauphin 2018.)
        top_p: keep the smallest set of best tokens that has this much probability, 0 to 1.
            1 keeps all. (Nucleus sampling: Holtzman et al. 2020.)
        min_p: keep tokens at least this fraction as probable as the best one, 0 to 1. 0 keeps
            all. (Nguyen et al. 2024.)
        typical_p: keep the tokens whose surprise is nearest to the entropy until they have this
            much probability, 0 to 1. 1 keeps all. (Meister et al. 2023.)
        repetition_penalty: logits of tokens already present are divided by it when positive and
            multiplied by it when not, above 0 up to 100. 1 is off. (CTRL: Keskar et al. 2019.)
        presence_penalty: subtracted once from the logit of each token already present, -100 to
            100. (OpenAI API.)
        frequency_penalty: subtracted as many times as the token is present, -100 to 100. (OpenAI
            API.)
        penalty_last_n: how many of the last tokens of prompt and answer the three penalties above
            look at. -1: all of them; 0: none, which turns them off. (llama.cpp.)
        dry_multiplier: strength of DRY, which lowers tokens that would continue a repetition by
            `multiplier * base ** (length of the repetition - allowed length)`, 0 to 100. 0 is off.
            (Don't Repeat Yourself: P. E. Weidmann, text-generation-webui.)
        dry_base: its base, 1 to 100.
        dry_allowed_length: repetitions shorter than this are free, 1 to 2^31-1.
        dry_penalty_last_n: how many of the last tokens it looks at. -1: all of them; 0: none.
        dry_sequence_breakers: strings that a repetition does not reach across. The engine turns
            them into tokens.
        xtc_probability: chance, per token, of dropping all but the least probable of the tokens
            that have at least `xtc_threshold`, 0 to 1. 0 is off. (Exclude Top Choices:
            P. E. Weidmann, text-generation-webui.)
        xtc_threshold: see there; 0 to 1. Above 0.5 it can never apply.
        mirostat: 0 off, 2 for version 2, which cuts tokens more surprising than a bound and steers
            that bound so that the mean surprise becomes `mirostat_tau`. (Basu et al. 2021.)
        mirostat_tau: target surprise in bits, above 0 up to 100.
        mirostat_eta: learning rate of the bound, above 0 up to 1.
        logit_bias: token id to a number from -100 to 100 added to its logit. -100 and -inf ban
            the token. (OpenAI API.)
        seed: 0 to 2^64-1. The same seed gives the same tokens whatever else is running. None: the
            engine picks one.
        logprobs: report log-probabilities. None: none; 0: of the chosen token; k: of the k most
            probable tokens too, up to 100.
        stop: strings at which the answer ends; they are not part of it. One string is accepted.
        stop_token_ids: tokens that end the answer, beside the model's own.
        ignore_eos: do not stop at the model's end-of-text tokens.

    Raises:
        InvalidParameterError: a value is of the wrong type or out of its range.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = DEFAULT_DRY_SEQUENCE_BREAKERS
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _INTEGERS.items():
            self._set(name, _integer(name, getattr(self, name), low, high))
        for name, (low, high) in _OPTIONAL_INTEGERS.items():
            if getattr(self, name) is not None:
                self._set(name, _integer(name, getattr(self, name), low, high))
        for name, limits in _REALS.items():
            self._set(name, _real(name, getattr(self, name), *limits))
        if self.mirostat not in (0, 2):
            raise InvalidParameterError(
                "mirostat",
                f"there is no mirostat version {self.mirostat}",
                remedy="use 0 (off) or 2",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidParameterError(
                "min_tokens", f"{self.min_tokens} is more than max_tokens, {self.max_tokens}"
            )
        self._set("stop", _strings("stop", self.stop))
        self._set(
            "dry_sequence_breakers",
            _strings("dry_sequence_breakers", self.dry_sequence_breakers),
        )
        self._set("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        self._set("logit_bias", _logit_bias(self.logit_bias))
        if not isinstance(self.ignore_eos, bool):
            raise InvalidParameterError(
                "ignore_eos", f"must be true or false, not {self.ignore_eos!r}"
            )

    @classmethod
    def greedy(cls, **settings: Any) -> Self:
        """Settings that always take the best token; further settings by name."""
        return cls(**{"temperature": 0.0, **_known(settings)})

    def replace(self, **settings: Any) -> Self:
        """A copy with some settings changed, checked like a new one."""
        return dataclasses.replace(self, **_known(settings))

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """The names of all settings, in their documented order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @property
    def is_greedy(self) -> bool:
        """Whether the outcome does not depend on the seed."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether the repetition, presence or frequency penalty does anything."""
        return self.penalty_last_n != 0 and (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def has_dry(self) -> bool:
        """Whether DRY does anything."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n != 0

    def check_vocab(self, vocab_size: int) -> None:
        """Check every token id named here against a vocabulary.

        Raises:
            InvalidParameterError: an id is not below `vocab_size`.
        """
        for name, ids in (
            ("logit_bias", self.logit_bias or ()),
            ("stop_token_ids", self.stop_token_ids),
        ):
            for token in ids:
                if token >= vocab_size:
                    raise InvalidParameterError(
                        name, f"token {token} is not in the vocabulary of {vocab_size} tokens"
                    )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everybody else


_INTEGERS: dict[str, tuple[int, int]] = {
    "min_tokens": (0, _INT32_MAX),
    "top_k": (0, _INT32_MAX),
    "penalty_last_n": (-1, _INT32_MAX),
    "dry_allowed_length": (1, _INT32_MAX),
    "dry_penalty_last_n": (-1, _INT32_MAX),
    "mirostat": (0, 2),
}
_OPTIONAL_INTEGERS: dict[str, tuple[int, int]] = {
    "max_tokens": (1, _INT32_MAX),
    "seed": (0, _UINT64_MAX),
    "logprobs": (0, MAX_LOGPROBS),
}
# (lowest, highest, whether the lowest is itself allowed)
_REALS: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, 100.0, True),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, True),
    "typical_p": (0.0, 1.0, True),
    "repetition_penalty": (0.0, 100.0, False),
    "presence_penalty": (-100.0, 100.0, True),
    "frequency_penalty": (-100.0, 100.0, True),
    "dry_multiplier": (0.0, 100.0, True),
    "dry_base": (1.0, 100.0, True),
    "xtc_probability": (0.0, 1.0, True),
    "xtc_threshold": (0.0, 1.0, True),
    "mirostat_tau": (0.0, 100.0, False),
    "mirostat_eta": (0.0, 1.0, False),
}


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse unknown names with a typed error instead of the TypeError of a call."""
    names = SamplingParams.parameter_names()
    for name in settings:
        if name not in names:
            raise InvalidParameterError(
                name, "there is no such sampling parameter", remedy=f"one of {', '.join(names)}"
            )
    return settings


def _integer(name: str, value: object, low: int, high: int) -> int:
    # bool is an int to Python; a person who writes top_k=True means something else.
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast("SupportsIndex", value))
    except TypeError:
        raise InvalidParameterError(name, f"must be a whole number, not {_shown(value)}") from None
    if not low <= number <= high:
        raise InvalidParameterError(name, f"{_shown(number)} is not from {low} to {high}")
    return number


def _real(name: str, value: object, low: float, high: float, low_included: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidParameterError(name, f"must be a number, not {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # written so that NaN fails
    if not (low <= number <= high) or (number == low and not low_included):
        start = f"from {low:g}" if low_included else f"above {low:g}"
        raise InvalidParameterError(name, f"{number} is not {start} to {high:g}")
    return number + 0.0  # no negative zero


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    items = _sequence(name, value, _MAX_STRINGS)
    for item in items:
        if not isinstance(item, str):
            raise InvalidParameterError(name, f"must hold strings, not {_shown(item)}")
        if not item:
            raise InvalidParameterError(name, "must not hold an empty string")
        if len(item) > _MAX_STRING_LENGTH:
            raise InvalidParameterError(
                name, f"holds a string of {len(item)} characters; {_MAX_STRING_LENGTH} are allowed"
            )
    return cast("tuple[str, ...]", items)


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    return tuple(_integer(name, item, 0, _INT32_MAX) for item in _sequence(name, value, _MAX_IDS))


def _logit_bias(value: object) -> TokenBias | None:
    if value is None or isinstance(value, TokenBias):
        return value
    if not isinstance(value, Mapping):
        raise InvalidParameterError(
            "logit_bias", f"must map token ids to numbers, not {_shown(value)}"
        )
    if len(value) > _MAX_IDS:
        raise InvalidParameterError(
            "logit_bias", f"has {len(value)} entries; {_MAX_IDS} are allowed"
        )
    bias: dict[int, float] = {}
    for key, number in value.items():
        token = _integer("logit_bias", key, 0, _INT32_MAX)
        if isinstance(number, Real) and number == -math.inf:
            bias[token] = -math.inf
        else:
            bias[token] = _real("logit_bias", number, BAN_BIAS, 100.0)
    return TokenBias(bias) if bias else None


def _sequence(name: str, value: object, most: int) -> tuple[object, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise InvalidParameterError(name, f"must be a list, not {_shown(value)}")
    if len(value) > most:
        raise InvalidParameterError(name, f"has {len(value)} entries; {most} are allowed")
    return tuple(value)


def _shown(value: object) -> str:
    """A value as it goes into a message: never longer than a line, nor made to be."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # a number of more digits than Python likes to print
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
