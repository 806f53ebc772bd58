"""What is asked of the engine, and how far along the tokens of it are.

A request is what the caller wants and does not change; a sequence is its tokens and their place in
the cache. Neither knows how tokens are chosen or who is waiting for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tektra.engine.prefix_cache import NO_ADAPTERS
from tektra.engine.sampling_params import SamplingParams
from tektra.graph import OutputName

__all__ = ["AdapterUse", "GenerateRequest", "Request", "RowSink", "RowsRequest", "SequenceState"]

RowSink: TypeAlias = Callable[[int, NDArray[np.float32]], None]
"""Takes the position of the first row and float32 [rows, width]; the rows are valid in the call."""


AdapterUse: TypeAlias = tuple[str, float]
"""Name of a loaded adapter, and the factor on what it adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Asks for a continuation of a prompt.

    Attributes:
        prompt: token ids, at least one.
        params: how to choose tokens and when to stop.
        stream: whether each piece is wanted as it comes, or all at the end.
        index: the prompt's number among those of one call; handed back with every chunk.
        continues_text: whether the answer goes on in the middle of a text, so that a space at its
            start belongs to it; False for the answer in a chat.
        adapters: that the model has for this request; what they add is added in this order.
    """

    prompt: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    stream: bool = False
    index: int = 0
    continues_text: bool = True
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRequest:
    """Asks for the model's output at every token of a text.

    Attributes:
        tokens: token ids, at least one.
        output: which output of the model.
        sink: is handed the rows in order, some at a time, on the engine's thread.
        first, end: the tokens whose rows are wanted: from the first one to before the end; None
            for the end of the text.
        segments: which of its texts each token belongs to, where there are several.
        adapters: that the model has for this request.
    """

    tokens: Sequence[int]
    output: OutputName
    sink: RowSink
    first: int = 0
    end: int | None = None
    segments: Sequence[int] | None = None
    adapters: tuple[AdapterUse, ...] = ()


Request: TypeAlias = GenerateRequest | RowsRequest


@dataclass(slots=True, eq=False)
class SequenceState:
    """The tokens of one request and where the cache has them.

    Attributes:
        id: number in order of arrival.
        tokens: prompt and what was generated since.
        output: which output of the model is wanted.
        first_output: position of the first token whose output is wanted and not there yet.
        end_output: position behind the last token whose output is wanted; None for no end. Others
            than the end of the text are for sequences that run whole.
        segments: which of its texts each token belongs to; None where there is one.
        blocks: int32 [blocks of a full context], the cache blocks in order; -1 past the last one.
        num_blocks: how many of them are in use.
        num_computed: tokens whose keys and values are in the cache.
        num_cached: tokens of the prompt that were found there at the start.
        digests: of the full blocks of ``tokens``, as far as they were needed.
        num_registered: blocks that the prefix cache was told of.
        running: whether it is among the running sequences; it waits otherwise.
        started: whether it ever ran.
        adapters: ids and scales of its adapters, in order.
        root: what the digests begin with; not the same for other adapters or scales.
    """

    id: int
    tokens: list[int]
    output: OutputName
    first_output: int
    blocks: NDArray[np.int32]
    end_output: int | None = None
    segments: Sequence[int] | None = None
    num_blocks: int = 0
    num_computed: int = 0
    num_cached: int = 0
    digests: list[bytes] = field(default_factory=list)
    num_registered: int = 0
    running: bool = False
    started: bool = False
    adapters: tuple[tuple[int, float], ...] = ()
    root: bytes = NO_ADAPTERS

    @property
    def num_remaining(self) -> int:
        """Tokens that are yet to be run through the model."""
        return len(self.tokens) - self.num_computed
