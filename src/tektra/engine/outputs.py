"""What a request gives back: completions, chunks of one, log-probabilities, timings.

Plain data that any caller can turn into JSON by `to_dict`; it does not know how it came about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tektra.errors import TektraError

__all__ = [
    "Chunk",
    "Completion",
    "FinishReason",
    "Timings",
    "TokenLogprob",
    "TopLogprob",
]

FinishReason = Literal["stop", "length", "cancelled", "error"]
"""Why a generation ended: an end token or stop string; ``max_tokens`` or the context; the caller;
a failure."""


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the tokens that the model found most probable at a place.

    Attributes:
        token_id: the token.
        text: its text; a part of a character shows as U+FFFD.
        bytes: exactly what it adds to the text.
        logprob: natural log of the model's own probability.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; bytes as a list of numbers."""
        return {
            "token_id": self.token_id,
            "text": self.text,
            "bytes": list(self.bytes),
            "logprob": self.logprob,
        }


@dataclass(frozen=True, slots=True)
class TokenLogprob(TopLogprob):
    """A generated token, and the most probable ones at its place, best first."""

    top: tuple[TopLogprob, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            **TopLogprob.to_dict(self),
            "top": [alternative.to_dict() for alternative in self.top],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of one request went, in seconds.

    Attributes:
        queue_s: from the request to its first step.
        prefill_s: from there to the first token.
        decode_s: from the first token to the last.
        total_s: from the request to the last token.
        time_to_first_token_s: ``queue_s + prefill_s``; None where no token came.
        prefill_tokens_per_second: prompt tokens that were computed, over ``prefill_s``.
        decode_tokens_per_second: tokens after the first, over ``decode_s``; None below two tokens.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0
    time_to_first_token_s: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The whole answer to one prompt.

    Attributes:
        text: the generated text, without special tokens, end token and stop string.
        token_ids: every generated token, the end token included.
        finish_reason: why it ended.
        stop_reason: the stop string or the id of the end token that ended it; None otherwise.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of those, how many the prefix cache had.
        completion_tokens: tokens generated.
        dropped_tokens: tokens that gave way in the middle, since there were more than the context
            holds; 0 but where the context slides.
        seed: seed that was used; with it the same request gives the same tokens.
        logprobs: one record for each of ``token_ids``; None unless asked for.
        timings: where the time went.
        error: what went wrong where ``finish_reason`` is ``"error"``.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seed: int
    dropped_tokens: int = 0
    logprobs: list[TokenLogprob] | None = None
    timings: Timings = field(default_factory=Timings)
    error: TektraError | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "dropped_tokens": self.dropped_tokens,
            "seed": self.seed,
            "logprobs": _logprobs(self.logprobs),
            "timings": self.timings.to_dict(),
            "error": None if self.error is None else str(self.error),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The next piece of an answer.

    Attributes:
        text: text that is certain since the last chunk; whole characters only. The texts of all
            chunks, joined, are the text of the completion.
        token_ids: tokens that came since the last chunk.
        logprobs: one record for each of them; None unless asked for.
        index: number of the prompt among those of one call.
        finish_reason: None but for the last chunk.
        completion: the whole answer, with the last chunk.
        dropped_tokens: tokens that gave way so far, as in `Completion`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    index: int = 0
    finish_reason: FinishReason | None = None
    completion: Completion | None = None
    dropped_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "logprobs": _logprobs(self.logprobs),
            "index": self.index,
            "finish_reason": self.finish_reason,
            "dropped_tokens": self.dropped_tokens,
            "completion": None if self.completion is None else self.completion.to_dict(),
        }


def _logprobs(records: list[TokenLogprob] | None) -> list[dict[str, Any]] | None:
    return None if records is None else [record.to_dict() for record in records]
