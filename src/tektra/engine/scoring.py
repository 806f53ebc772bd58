"""What is made of the model's output at every token: log-probabilities and embeddings.

Each class is a sink for a `RowsRequest`: it takes the rows as they are computed, a few at a time,
and keeps only its result. It knows arrays, not texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tektra.errors import InvalidParameterError

__all__ = ["AllLogProbs", "NextLogProbs", "PooledRows", "Pooling", "log_softmax", "perplexity"]

Floats: TypeAlias = NDArray[np.float32]
Pooling = Literal["mean", "last", "cls"]


def log_softmax(logits: Floats) -> Floats:
    """Natural log of the softmax of each row; float32 [rows, width]. Sums are in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: Floats = shifted - np.log(total).astype(np.float32)
    return result


class AllLogProbs:
    """Log-probabilities of every token of the vocabulary at every place.

    Args:
        num_tokens: T.
        vocab_size: width of a row of logits.
    """

    def __init__(self, num_tokens: int, vocab_size: int) -> None:
        self.result: Floats = np.empty((num_tokens, vocab_size), dtype=np.float32)

    def __call__(self, first: int, rows: Floats) -> None:
        # A row at a time, so that nothing of the size of several rows is needed besides.
        for index, row in enumerate(rows, start=first):
            self.result[index] = log_softmax(row[np.newaxis])[0]


class NextLogProbs:
    """Log-probability that the model gives to the token that really comes next.

    Args:
        tokens: of the text, T of them; the result is float32 [T - 1].
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self.result: Floats = np.empty(len(tokens) - 1, dtype=np.float32)

    def __call__(self, first: int, rows: Floats) -> None:
        for index, row in enumerate(rows, start=first):
            if index + 1 < len(self._tokens):
                self.result[index] = log_softmax(row[np.newaxis])[0, self._tokens[index + 1]]


class PooledRows:
    """One vector for a text from the vectors of its tokens.

    Args:
        num_tokens: of the text.
        pooling: ``"mean"`` of all tokens, the ``"last"`` token, or the first one (``"cls"``).
    """

    def __init__(self, num_tokens: int, pooling: Pooling) -> None:
        if pooling not in _WANTED:
            raise InvalidParameterError(
                "pooling",
                f"{pooling!r} is not known",
                remedy=f"one of {', '.join(get_args(Pooling))}",
            )
        self.wanted = _WANTED[pooling](num_tokens)
        """The tokens whose rows are needed: from the first one to before the second number."""
        self._sum: NDArray[np.float64] | None = None

    def __call__(self, first: int, rows: Floats) -> None:
        start, end = self.wanted
        rows = rows[max(0, start - first) : max(0, end - first)]
        if not len(rows):
            return
        # In order and in float64, so that the cut into steps does not show in the result: along
        # the first axis NumPy adds row after row.
        so_far = [] if self._sum is None else [self._sum[np.newaxis]]
        self._sum = np.add.reduce(np.concatenate([*so_far, rows], dtype=np.float64), axis=0)

    def vector(self, *, normalize: bool, dimensions: int | None = None) -> Floats:
        """The first elements of the vector, float32; of length 1 if ``normalize``."""
        assert self._sum is not None
        start, end = self.wanted
        vector = self._sum[:dimensions] / (end - start)
        length = float(np.linalg.norm(vector)) if normalize else 1.0
        return (vector / (length or 1.0)).astype(np.float32)


def perplexity(log_probs: Floats) -> float:
    """exp of the mean surprise of the tokens, from their log-probabilities [n]."""
    if log_probs.size == 0:
        raise InvalidParameterError("text", "perplexity needs at least two tokens")
    return float(np.exp(-log_probs.mean(dtype=np.float64)))


_WANTED: dict[str, Callable[[int], tuple[int, int]]] = {
    "mean": lambda num_tokens: (0, num_tokens),
    "last": lambda num_tokens: (num_tokens - 1, num_tokens),
    "cls": lambda num_tokens: (0, 1),
}
