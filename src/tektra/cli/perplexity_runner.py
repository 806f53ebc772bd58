"""Perplexity of a text in windows, the second half of each scored.

It knows the public API; it neither reads files nor prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tektra.errors import InvalidParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tektra.llm import LLM

__all__ = ["Perplexity", "measure_perplexity", "window_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """The result over some windows.

    Attributes:
        perplexity: exp of `mean_surprise`.
        standard_error: of the perplexity: that of the mean surprise, times the perplexity.
        mean_surprise: mean of -log p over the scored tokens, in nats.
        scored_tokens: tokens that were predicted.
        windows: windows that were run.
        window: tokens in one.
        tokens: of the whole text.
        beginning_of_sequence: whether each window's first token was replaced by that token.
    """

    perplexity: float
    standard_error: float
    mean_surprise: float
    scored_tokens: int
    windows: int
    window: int
    tokens: int
    beginning_of_sequence: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def window_tokens(tokens: list[int], window: int, bos: int | None) -> list[list[int]]:
    """The text in windows side by side, a shorter rest left out.

    Args:
        tokens: of the text, without special tokens.
        window: tokens in a window.
        bos: takes the place of each window's first token; None: nothing does.
    """
    starts = range(0, len(tokens) - window + 1, window)
    windows = [tokens[start : start + window] for start in starts]
    return windows if bos is None else [[bos, *part[1:]] for part in windows]


def measure_perplexity(
    llm: LLM,
    text: str,
    *,
    window: int,
    after_each: Callable[[Perplexity, int], None] = lambda result, windows: None,
) -> Perplexity:
    """Runs the windows of a text one by one.

    With windows of N tokens t[0] .. t[N-1], those from t[N // 2 + 1] on are scored, each given all
    before it in its window: N - N // 2 - 1 tokens, as llama.cpp counts them.

    Args:
        after_each: is told the result so far and how many windows there are.

    Raises:
        InvalidParameterError: the text is shorter than a window.
    """
    bos = _beginning(llm)
    tokens = llm.tokenize(text, add_special=False, parse_special=False)
    windows = window_tokens(tokens, window, bos)
    if not windows:
        raise InvalidParameterError(
            "text",
            f"has {len(tokens)} tokens, fewer than a window of {window}",
            remedy="use a longer text or a smaller --context",
        )
    surprises: list[NDArray[np.float64]] = []
    result = None
    for number, part in enumerate(windows, start=1):
        first = window // 2 + 1
        log_probs = llm.score(part)
        rows = np.arange(first - 1, window - 1)
        surprises.append(-log_probs[rows, part[first:]].astype(np.float64))
        result = _result(
            np.concatenate(surprises), number, window, len(tokens), with_bos=bos is not None
        )
        after_each(result, len(windows))
    assert result is not None
    return result


def _beginning(llm: LLM) -> int | None:
    """The token that the tokenizer puts before a text; None where it puts none."""
    plain, framed = llm.tokenize("a", add_special=False), llm.tokenize("a", add_special=True)
    return None if framed[: len(plain)] == plain else framed[0]


def _result(
    surprises: NDArray[np.float64], windows: int, window: int, tokens: int, *, with_bos: bool
) -> Perplexity:
    mean = float(surprises.mean())
    value = math.exp(mean) if mean < 700 else math.inf
    # The spread of a single value is not known.
    deviation = float(surprises.std(ddof=1)) if surprises.size > 1 else math.inf
    return Perplexity(
        perplexity=value,
        standard_error=value * deviation / math.sqrt(surprises.size),
        mean_surprise=mean,
        scored_tokens=surprises.size,
        windows=windows,
        window=window,
        tokens=tokens,
        beginning_of_sequence=with_bos,
    )
