"""Chooses the next token from a row of logits, in NumPy, one plain step after another.

The oracle of the native sampler and what runs where there is no native core. Knows one request:
not the batch, not the model, not what the tokens mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tektra.engine.sampling_params import BAN_BIAS, Sampled, SamplingParams
from tektra.errors import BackendError, InvalidParameterError, RequestError

__all__ = ["DRAW_TOKEN", "DRAW_XTC", "ReferenceSampler", "philox4x32", "uniform"]

DRAW_TOKEN = 0
"""Purpose of a random number: choosing the token."""

DRAW_XTC = 1
"""Purpose of a random number: deciding whether XTC applies to this token."""

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

_MAX_FLOAT = float(np.finfo(np.float32).max)
# Above this a DRY penalty stops growing: enough to put a token last, and still a finite logit.
_MAX_DRY_PENALTY = 1e30


class ReferenceSampler:
    """Samples the tokens of one request. `SamplingParams` says what the steps are.

    Args:
        params: the settings; `params.seed` is not looked at, `seed` is.
        vocab_size: length of a row of logits.
        seed: 0 to 2^64-1. The random numbers depend on it and on how many tokens this sampler
            has sampled, on nothing else.
        breaker_ids: tokens that a repetition does not reach across (DRY).

    Raises:
        InvalidParameterError: a token id in `params` or `breaker_ids` is not in the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        *,
        seed: int,
        breaker_ids: Sequence[int] = (),
    ) -> None:
        if vocab_size < 1:
            raise InvalidParameterError("vocab_size", f"{vocab_size} is not a vocabulary")
        if not 0 <= seed < 2**64:
            raise InvalidParameterError("seed", f"{seed} is not from 0 to 2^64-1")
        params.check_vocab(vocab_size)
        self._params = params
        self._vocab_size = vocab_size
        self._seed = seed
        self._breakers = frozenset(self._checked("breaker_ids", breaker_ids).tolist())
        self._history: list[int] = []
        self._num_generated = 0
        self._mirostat_bound = 2.0 * params.mirostat_tau
        bias = params.logit_bias or {}
        self._banned = np.array([t for t, b in bias.items() if b <= BAN_BIAS], dtype=np.int64)
        added = {t: b for t, b in bias.items() if b > BAN_BIAS}
        self._biased = np.array(list(added), dtype=np.int64)
        self._bias = np.array(list(added.values()), dtype=np.float64)

    @property
    def num_generated(self) -> int:
        """How many tokens have been sampled: the counter of the random numbers."""
        return self._num_generated

    def accept(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Add tokens that were not sampled here, such as the prompt, to the history.

        Raises:
            InvalidParameterError: an id is not in the vocabulary; the history is unchanged.
        """
        self._history.extend(self._checked("tokens", tokens).tolist())

    def sample(
        self,
        logits: Floats,
        *,
        mask: NDArray[np.uint32] | None = None,
        suppressed: Sequence[int] = (),
    ) -> Sampled:
        """Choose the next token and add it to the history.

        Args:
            logits: float32 [vocab_size]; not modified.
            mask: uint32 [at least ceil(vocab_size / 32)]; token t is allowed where bit t % 32 of
                word t // 32 is set. None allows all.
            suppressed: token ids that are not allowed this time.

        Raises:
            InvalidParameterError: an argument has the wrong shape, type or ids.
            BackendError: a logit is NaN, or all of them are -inf.
            RequestError: masks and bans leave no token.
        """
        if not (
            isinstance(logits, np.ndarray)
            and logits.dtype == np.float32
            and logits.shape == (self._vocab_size,)
            and logits.flags.c_contiguous
        ):
            raise InvalidParameterError(
                "logits", f"must be a contiguous float32 [{self._vocab_size}]"
            )
        if np.isnan(logits).any():
            raise BackendError("the model returned logits that are not a number (NaN)")
        edited = self._edited(logits, self._excluded(mask, suppressed))
        candidates = np.flatnonzero(edited > -np.inf)
        if candidates.size == 0:
            if logits.max() == -np.inf:
                raise BackendError("the model returned -inf for every token")
            raise RequestError(
                "the masks and bans on this request leave no token to choose from",
                remedy="loosen the grammar, logit_bias or stop settings",
            )
        if np.isposinf(edited).any():  # then those share all the probability
            candidates = np.flatnonzero(np.isposinf(edited))
            edited = np.zeros_like(edited)
        with np.errstate(over="ignore"):  # differences become -inf, whose weight is 0
            token = self._choose(candidates, edited[candidates])
            self._history.append(token)
            self._num_generated += 1
            return self._reported(token, logits)

    # Editing the logits

    def _excluded(self, mask: NDArray[np.uint32] | None, suppressed: Sequence[int]) -> Ids:
        excluded = [self._banned, self._checked("suppressed", suppressed)]
        if mask is not None:
            num_words = (self._vocab_size + 31) // 32
            if not (
                isinstance(mask, np.ndarray)
                and mask.dtype == np.uint32
                and mask.ndim == 1
                and mask.size >= num_words
                and mask.flags.c_contiguous
            ):
                raise InvalidParameterError("mask", f"must be a contiguous uint32 [{num_words}]")
            words = mask[:num_words].astype("<u4").view(np.uint8)
            allowed = np.unpackbits(words, bitorder="little")[: self._vocab_size]
            excluded.append(np.flatnonzero(allowed == 0))
        return np.concatenate(excluded)

    def _edited(self, logits: Floats, excluded: Ids) -> Floats:
        """A copy of the logits after bias, exclusions, penalties and DRY."""
        edited = logits.copy()
        if self._biased.size:
            edited[self._biased] = _narrowed(edited[self._biased] + self._bias)
        edited[excluded] = -np.inf
        params = self._params
        if params.has_penalties:
            counts = Counter(_last(self._history, params.penalty_last_n))
            if counts:
                tokens = np.array(list(counts), dtype=np.int64)
                count = np.array(list(counts.values()), dtype=np.float64)
                values = edited[tokens].astype(np.float64)
                rate = params.repetition_penalty
                values = np.where(values <= 0, values * rate, values / rate)
                values -= count * params.frequency_penalty + params.presence_penalty
                edited[tokens] = _narrowed(values)
        if params.has_dry:
            for token, length in self._repetitions().items():
                # in logarithms, so that no length overflows
                exponent = (length - params.dry_allowed_length) * math.log(params.dry_base)
                if math.log(params.dry_multiplier) + exponent >= math.log(_MAX_DRY_PENALTY):
                    penalty = _MAX_DRY_PENALTY
                else:
                    penalty = params.dry_multiplier * params.dry_base ** (
                        length - params.dry_allowed_length
                    )
                edited[token] = _narrowed(np.float64(edited[token]) - penalty)
        return edited

    def _repetitions(self) -> dict[int, int]:
        """The tokens that would continue a repetition, and the longest one each would continue.

        The repetition before a token at position i is the longest run ending at i-1 that equals
        the end of the history and holds no breaker.
        """
        params = self._params
        tail = _last(self._history, params.dry_penalty_last_n)
        lengths: dict[int, int] = {}
        if not tail or tail[-1] in self._breakers:
            return lengths
        longest = self._longest_that_matters()
        for i in range(1, len(tail)):
            if tail[i - 1] != tail[-1] or tail[i] in self._breakers:
                continue
            length = 1
            while (
                length < longest
                and i - 1 - length >= 0
                and tail[i - 1 - length] == tail[-1 - length]
                and tail[-1 - length] not in self._breakers
            ):
                length += 1
            if length >= params.dry_allowed_length:
                lengths[tail[i]] = max(length, lengths.get(tail[i], 0))
        return lengths

    def _longest_that_matters(self) -> int:
        """The length from which on the DRY penalty is the same; a longer match is not followed."""
        params = self._params
        if params.dry_base == 1.0:
            return params.dry_allowed_length
        room = math.log(_MAX_DRY_PENALTY) - math.log(params.dry_multiplier)
        return params.dry_allowed_length + math.ceil(room / math.log(params.dry_base))

    # Choosing

    def _choose(self, ids: Ids, logits: Floats) -> int:
        """Run the filters over candidates with finite logits, given by ascending id, and draw."""
        params = self._params
        order = np.argsort(-logits, kind="stable")
        ids, logits = ids[order], logits[order]
        if params.is_greedy:
            return int(ids[0])
        if params.mirostat:
            return self._choose_mirostat(ids, logits)
        for kept in (self._top_k, self._typical, self._top_p, self._min_p, self._xtc):
            keep = kept(logits)
            ids, logits = ids[keep], logits[keep]
        return int(ids[self._draw(_weights(self._scaled(logits)))])

    def _top_k(self, logits: Floats) -> NDArray[np.bool_]:
        k = self._params.top_k or logits.size
        return np.arange(logits.size) < k

    def _typical(self, logits: Floats) -> NDArray[np.bool_]:
        mass = self._params.typical_p
        keep = np.ones(logits.size, dtype=np.bool_)
        if mass >= 1.0:
            return keep
        below = (logits - logits[0]).astype(np.float64)  # x = logit - best logit
        weights = np.exp(below)
        total = weights.sum()
        # surprise - entropy = (log Z - x) - (log Z - E[x]) = E[x] - x
        expected = (weights * np.maximum(below, -_MAX_FLOAT)).sum() / total
        order = np.argsort(np.abs(below - expected), kind="stable")
        reached = np.searchsorted(np.cumsum(weights[order]), mass * total, side="left")
        keep[order[int(reached) + 1 :]] = False
        return keep

    def _top_p(self, logits: Floats) -> NDArray[np.bool_]:
        mass = self._params.top_p
        if mass >= 1.0:
            return np.ones(logits.size, dtype=np.bool_)
        weights = _weights(logits - logits[0])
        reached = np.searchsorted(np.cumsum(weights), mass * weights.sum(), side="left")
        return np.arange(logits.size) <= int(reached)

    def _min_p(self, logits: Floats) -> NDArray[np.bool_]:
        if self._params.min_p <= 0.0:
            return np.ones(logits.size, dtype=np.bool_)
        keep: NDArray[np.bool_] = logits - logits[0] >= np.float32(math.log(self._params.min_p))
        return keep

    def _xtc(self, logits: Floats) -> NDArray[np.bool_]:
        keep = np.ones(logits.size, dtype=np.bool_)
        if uniform(self._seed, self._num_generated, DRAW_XTC) < self._params.xtc_probability:
            weights = _weights(logits - logits[0])
            num_above = int((weights >= self._params.xtc_threshold * weights.sum()).sum())
            keep[: max(num_above - 1, 0)] = False
        return keep

    def _choose_mirostat(self, ids: Ids, logits: Floats) -> int:
        """Version 2, after Basu et al. 2021; the bound starts at twice the target."""
        scaled = self._scaled(logits)
        weights = _weights(scaled)
        lowest = math.log(weights.sum()) - self._mirostat_bound * math.log(2.0)
        keep = scaled.astype(np.float64) >= lowest
        keep[0] = True
        kept = weights[keep]
        chosen = self._draw(kept)
        surprise = -math.log2(kept[chosen] / kept.sum())
        self._mirostat_bound -= self._params.mirostat_eta * (surprise - self._params.mirostat_tau)
        return int(ids[keep][chosen])

    def _scaled(self, logits: Floats) -> Floats:
        """Logits relative to the best one, divided by the temperature; float32."""
        # The reciprocal is capped so that 0 * inf never makes a NaN.
        reciprocal = np.float32(min(1.0 / self._params.temperature, _MAX_FLOAT))
        scaled: Floats = (logits - logits[0]) * reciprocal
        return scaled

    def _draw(self, weights: NDArray[np.float64]) -> int:
        cumulative = np.cumsum(weights)
        target = uniform(self._seed, self._num_generated, DRAW_TOKEN) * cumulative[-1]
        index = int(np.searchsorted(cumulative, target, side="right"))
        return min(index, weights.size - 1)

    # Reporting

    def _reported(self, token: int, logits: Floats) -> Sampled:
        count = self._params.logprobs
        if count is None:
            return Sampled(token, None, ())
        best = logits.max()
        if np.isposinf(best):
            logits = np.where(np.isposinf(logits), np.float32(0), np.float32(-np.inf))
            best = np.float32(0)
        below = logits - best
        log_total = math.log(np.exp(below.astype(np.float64)).sum())
        order = np.argsort(-logits, kind="stable")[:count]
        order = order[below[order] > -np.inf]
        top = tuple((int(t), float(below[t]) - log_total) for t in order)
        return Sampled(token, float(below[token]) - log_total, top)

    def _checked(self, name: str, tokens: Sequence[int] | NDArray[np.integer]) -> Ids:
        ids = np.asarray(tokens)
        if ids.size == 0:
            return np.empty(0, dtype=np.int64)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise InvalidParameterError(name, "must be a list of token ids")
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            bad = ids[(ids < 0) | (ids >= self._vocab_size)][0]
            raise InvalidParameterError(
                name, f"token {bad} is not in the vocabulary of {self._vocab_size} tokens"
            )
        return ids.astype(np.int64)


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Ten rounds of Philox 4x32: four random 32-bit words (Salmon et al. 2011, Random123)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (second >> 32) ^ c1 ^ k0, second & 0xFFFFFFFF
        c2, c3 = (first >> 32) ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform(seed: int, index: int, purpose: int) -> float:
    """A number from 0 to below 1, with 53 random bits, that depends on the arguments alone."""
    counter = (index & 0xFFFFFFFF, index >> 32, purpose, 0)
    low, high, _, _ = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return ((high << 32 | low) >> 11) * 2.0**-53


def _weights(below: Floats) -> NDArray[np.float64]:
    return np.exp(below.astype(np.float64))


def _narrowed(values: NDArray[np.float64] | np.float64) -> Floats:
    """To float32 without making an infinity of a finite number: that would exclude the token."""
    capped = np.where(np.isfinite(values), np.clip(values, -_MAX_FLOAT, _MAX_FLOAT), values)
    return capped.astype(np.float32)


def _last(history: list[int], count: int) -> list[int]:
    """The last `count` tokens; all of them for -1. Callers have dealt with 0."""
    return history if count < 0 else history[-count:]
