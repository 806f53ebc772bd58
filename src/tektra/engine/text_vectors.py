"""Vectors and scores of texts: from texts to requests, and from rows to arrays.

It knows tokens and rows; how a model computes them, or who else asks for some, it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tektra.engine.delivery import compute_rows
from tektra.engine.prompts import Prompt, PromptList, encode_prompt, split_prompts
from tektra.engine.request import AdapterUse, RowsRequest
from tektra.engine.runtime import Ready
from tektra.engine.scoring import PooledRows, Pooling
from tektra.errors import ContextLengthError, InvalidParameterError, RequestError
from tektra.tokenizer import Tokenizer

__all__ = ["Ranked", "embed", "rerank"]

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and how well it answers a query.

    Attributes:
        index: its place in the list of documents.
        score: higher is better.
    """

    index: int
    score: float


def embed(
    ready: Ready,
    texts: Prompt | PromptList,
    *,
    pooling: Pooling | None,
    normalize: bool | None,
    before: str,
    dimensions: int | None,
    truncate: bool,
    adapters: tuple[AdapterUse, ...] = (),
) -> _Floats:
    """Vectors of texts; documented at `tektra.LLM.embed`. ``before`` is put before each text."""
    model = ready.model
    settings, tokenizer = model.vectors, model.tokenizer
    context, suffix = ready.engine.options.context, tokenizer.special.suffix_ids
    prompts, single = split_prompts(texts)
    requests: list[RowsRequest] = []
    sinks: list[PooledRows] = []
    for index, text in enumerate(prompts):
        name = "texts" if single else f"texts[{index}]"
        if isinstance(text, str):
            text = before + text
            text = text.lower() if settings.lower_case else text
        tokens = encode_prompt(tokenizer, text, name=name)
        tokens = _fitting(tokens, context, suffix, truncate=truncate, name=name)
        sink = PooledRows(len(tokens), pooling or settings.pooling)
        sinks.append(sink)
        first, end = sink.wanted
        requests.append(
            RowsRequest(
                tokens=tokens,
                output="hidden",
                sink=sink,
                first=first,
                end=end if model.is_encoder else None,
                adapters=adapters,
            )
        )
    width = model.drawn.config.embedding_width
    _check_dimensions(dimensions, width)
    compute_rows(ready.engine, requests)
    chosen = settings.normalize if normalize is None else normalize
    result = np.empty((len(sinks), dimensions or width), np.float32)
    for row, sink in zip(result, sinks, strict=True):
        row[:] = sink.vector(normalize=chosen, dimensions=dimensions)
    return result


def rerank(
    ready: Ready,
    query: str,
    documents: Sequence[str],
    *,
    top_n: int | None,
    truncate: bool,
    raw_scores: bool,
) -> list[Ranked]:
    """Documents by how well they answer a query; documented at `tektra.LLM.rerank`."""
    model = ready.model
    model.require("scores")
    labels = model.drawn.graph.outputs["scores"].width
    if labels != 1:
        raise RequestError(
            f"the model gives {labels} scores for a pair, and documents are ranked by one",
            remedy="use a cross-encoder with one label",
        )
    if isinstance(documents, str) or not all(isinstance(text, str) for text in documents):
        raise InvalidParameterError("documents", "must be a list of texts")
    if not isinstance(query, str):
        raise InvalidParameterError("query", "must be a text")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise InvalidParameterError("top_n", f"must be 1 or more, not {str(top_n)[:60]}")

    def encode(text: str) -> list[int]:
        text = text.lower() if model.vectors.lower_case else text
        return model.tokenizer.encode(text, add_special=False)

    scores = np.empty(len(documents), np.float32)
    requests: list[RowsRequest] = []
    asked = encode(query)
    for index, document in enumerate(documents):
        tokens, segments = _pair_tokens(
            model.tokenizer,
            asked,
            encode(document),
            ready.engine.options.context,
            truncate=truncate,
        )

        def take(_: int, rows: _Floats, index: int = index) -> None:
            scores[index] = rows[0, 0]

        requests.append(
            RowsRequest(tokens=tokens, output="scores", sink=take, end=1, segments=segments)
        )
    compute_rows(ready.engine, requests)
    best = np.argsort(-scores, kind="stable")[:top_n].tolist()
    sigmoid = model.vectors.scores == "sigmoid" and not raw_scores
    return [
        Ranked(index, _sigmoid(float(scores[index])) if sigmoid else float(scores[index]))
        for index in best
    ]


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _fitting(
    tokens: list[int], context: int, suffix: Sequence[int], *, truncate: bool, name: str
) -> list[int]:
    """The tokens of a text; with ``truncate`` those that fit, and the end of text after them.

    Raises:
        ContextLengthError: they do not fit, and are not to be cut.
    """
    if len(tokens) <= context:
        return tokens
    if not truncate:
        raise ContextLengthError(
            len(tokens), context, remedy=f"shorten {name}, or pass truncate=True to cut its end off"
        )
    if len(suffix) >= context or tokens[len(tokens) - len(suffix) :] != [*suffix]:
        return tokens[:context]
    return [*tokens[: context - len(suffix)], *suffix]


def _pair_tokens(
    tokenizer: Tokenizer, first: list[int], second: list[int], context: int, *, truncate: bool
) -> tuple[list[int], list[int]]:
    """Tokens and segments of two texts that are read together; with ``truncate`` the longer one
    is cut until they fit.

    Raises:
        InvalidParameterError: the tokenizer does not say how pairs are written.
        ContextLengthError: they do not fit, and are not to be cut.
    """
    frame = tokenizer.special.pair
    if frame is None:
        raise InvalidParameterError("documents", "the model's tokenizer does not write pairs")
    more = len(frame.prefix_ids) + len(frame.between_ids) + len(frame.suffix_ids)
    room = context - more
    if len(first) + len(second) > room:
        if not truncate or room < 2:
            raise ContextLengthError(
                len(first) + len(second) + more,
                context,
                remedy="shorten the query or the document, or pass truncate=True to cut the longer",
            )
        short = min(len(first), len(second), room // 2)
        first, second = (
            (first[:short], second[: room - short])
            if len(first) <= len(second)
            else (first[: room - short], second[:short])
        )
    head = [*frame.prefix_ids, *first, *frame.between_ids]
    tail = [*second, *frame.suffix_ids]
    return head + tail, [0] * len(head) + [frame.second_segment] * len(tail)


def _check_dimensions(dimensions: int | None, width: int) -> None:
    if dimensions is not None and (
        isinstance(dimensions, bool)
        or not isinstance(dimensions, int)
        or not 1 <= dimensions <= width
    ):
        raise InvalidParameterError(
            "dimensions", f"must be a whole number from 1 to {width}, not {str(dimensions)[:60]}"
        )
