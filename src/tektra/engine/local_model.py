"""A model in this process: its life, its tokens, and what it says of whole texts.

The part of `tektra.LLM` that does not generate. It turns what callers pass into requests; the
engine below it knows nothing of texts, messages or event loops.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import Backend
from tektra.config import KvType, Settings
from tektra.engine import text_vectors
from tektra.engine.adapters import AdapterChoice, adapter_uses
from tektra.engine.capabilities import Capabilities, capabilities_of
from tektra.engine.delivery import compute_rows
from tektra.engine.llm_options import LLMOptions
from tektra.engine.loader import LoadOptions
from tektra.engine.model_adapters import ModelAdapters
from tektra.engine.packed_copy import PackedStatus
from tektra.engine.prompts import (
    Message,
    Prompt,
    PromptList,
    encode_prompt,
    is_messages,
)
from tektra.engine.request import RowsRequest
from tektra.engine.runtime import Runtime, Status
from tektra.engine.sampling_params import SamplingParams
from tektra.engine.scoring import AllLogProbs, NextLogProbs, Pooling, perplexity
from tektra.engine.stats import EngineStats, Health
from tektra.engine.text_vectors import Ranked
from tektra.progress import CancelToken, ProgressCallback, ignore_progress

__all__ = ["LocalModel"]

_Floats = NDArray[np.float32]


class LocalModel(ModelAdapters):
    """Everything of `tektra.LLM` but generating; documented there."""

    def __init__(
        self,
        reference: str | os.PathLike[str],
        *,
        device: str | Backend = "auto",
        threads: int | None = None,
        context: int | None = None,
        context_policy: str | None = None,
        max_batch: int = 8,
        max_rows: int = 512,
        kv_type: KvType | None = None,
        quant: str | None = None,
        max_waiting: int | None = None,
        prefix_cache: bool = True,
        seed: int | None = None,
        packed_cache: bool = True,
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
        wait: bool = True,
    ) -> None:
        settings = Settings.from_environment()
        options = LoadOptions(
            device=settings.device if device == "auto" else device,
            threads=settings.threads if threads is None else threads,
            context=settings.context if context is None else context,
            context_policy=settings.context_policy if context_policy is None else context_policy,
            max_batch=max_batch,
            max_rows=max_rows,
            packed_cache=settings.packed_cache if packed_cache else 0,
            kv_type=settings.kv_type if kv_type is None else kv_type,
            quant=settings.quant if quant is None else quant,
        )
        # Checks the range; the engine draws from it.
        SamplingParams(seed=seed)
        self._max_batch = max_batch
        self._runtime = Runtime(
            reference,
            options,
            max_waiting=max_waiting,
            prefix_cache=prefix_cache,
            seed=seed,
            adapters=dict(adapters or {}),
            progress=progress,
            cancel=cancel or CancelToken(),
        )
        # For models that nobody closes. The threads hold the runtime, not this object.
        finalizer = weakref.finalize(self, self._runtime.abandon)
        finalizer.atexit = False
        if wait:
            try:
                self._runtime.load()
            except BaseException:
                # The error's traceback holds this object, which the finalizer would wait for.
                finalizer.detach()
                raise
        else:
            self._runtime.load_in_background()

    @classmethod
    async def load_async(
        cls, reference: str | os.PathLike[str], **options: Unpack[LLMOptions]
    ) -> Self:
        """Loads a model without blocking the event loop. Cancelling the task ends the loading.

        Takes the options of the class and raises what it raises.
        """
        import asyncio  # here, because it is a tenth of the time that importing this module takes

        llm = cls(reference, **options, wait=False)
        try:
            await asyncio.to_thread(llm.wait_ready)
        except BaseException:
            await llm.close_async()
            raise
        return llm

    # Life

    @property
    def status(self) -> Status:
        """What the model is doing: loading, ready, busy, closed or failed."""
        return self._runtime.status

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the model is loaded.

        Raises:
            TektraError: what loading failed with.
            TimeoutError: it takes longer than ``timeout`` seconds.
        """
        self._runtime.ready(timeout)

    def close(self) -> None:
        """Cancels what runs and frees everything. Calls after it raise `RequestError`."""
        self._runtime.close()

    async def close_async(self) -> None:
        """`close` without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self._runtime.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, and within which bounds. Waits until it is loaded."""
        return capabilities_of(self._runtime.ready().model, self._max_batch)

    @property
    def default_sampling(self) -> SamplingParams:
        """What a request that brings no `SamplingParams` gets: what the model recommends.

        From the ``general.sampling.*`` keys of its file and from the catalog; where those say
        nothing, the defaults of `SamplingParams`. Waits until the model is loaded.
        """
        return self._runtime.ready().model.sampling

    @property
    def packed_copy(self) -> PackedStatus:
        """What became of the packed copy of the model, with which it starts faster.

        Waits until the model is loaded; see `PackedStatus` for the words.
        """
        return self._runtime.ready().model.packed.status

    def wait_packed_copy(self, timeout: float | None = None) -> PackedStatus:
        """Waits until the packed copy is written, or was given up; returns what became of it.

        A program that loads a model and ends at once would never leave one otherwise.
        """
        return self._runtime.ready().model.packed.wait(timeout)

    def stats(self) -> EngineStats:
        """Counts, latencies, rates and memory since the start; a snapshot."""
        return self._runtime.stats()

    def health(self) -> Health:
        """Whether a request sent now would be served, and what went wrong last."""
        return self._runtime.health()

    # Tokens

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any Unicode text.
            add_special: put the beginning and end of sequence round it where the model does that.
                `generate`, `score` and `embed` do so with the texts that they are given.
            parse_special: read the text of special tokens as those tokens.
        """
        tokenizer = self._runtime.ready().model.tokenizer
        return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self._runtime.ready().model.tokenizer.decode(ids, skip_special=skip_special)

    # Whole texts

    def embed(
        self,
        texts: Prompt | PromptList,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
    ) -> _Floats:
        """Vectors of texts, from the model's final hidden states.

        Args:
            texts: a text, token ids, or a list of those.
            pooling: ``"mean"`` over all tokens, the ``"last"`` token, or the first (``"cls"``);
                None for what the model says, or the mean where it says nothing.
            normalize: scale each vector to length 1; None for what the model says, or True.
            prompt_name: name of one of the model's prompts, which is put before each text; None
                for its default prompt, if it has one.
            prompt: a text to put before each text instead.
            dimensions: only so many of the first elements, for models made for it (Matryoshka
                representations); scaled after that.
            truncate: cut off the end of texts that are longer than the context, instead of
                raising an error.
            adapter, adapter_scale: as for `generate`.

        Returns:
            float32 [N, dimensions]; N is 1 for a text that is not in a list.

        Raises:
            ContextLengthError: a text is longer than the context, and is not to be cut.
            InvalidParameterError, BackendError: as for `generate`.
        """
        uses = adapter_uses(adapter, adapter_scale)
        ready = self._runtime.ready()
        return text_vectors.embed(
            ready,
            texts,
            pooling=pooling,
            normalize=normalize,
            before=ready.model.vectors.prompt(prompt_name, prompt),
            dimensions=dimensions,
            truncate=truncate,
            adapters=uses,
        )

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate: bool = False,
        raw_scores: bool = False,
    ) -> list[Ranked]:
        """Documents in the order in which a cross-encoder finds that they answer a query.

        Args:
            query: a text.
            documents: the texts to be compared with it.
            top_n: only so many of the best; None for all.
            truncate: cut off the end of the longer one of a pair that is longer than the context,
                instead of raising an error.
            raw_scores: what the head gives, without the function that the model wants applied.

        Returns:
            The best first; equal ones in the order of the documents.

        Raises:
            RequestError: the model has no head that scores pairs.
            ContextLengthError: a pair is longer than the context, and is not to be cut.
            InvalidParameterError, BackendError: as for `generate`.
        """
        return text_vectors.rerank(
            self._runtime.ready(),
            query,
            documents,
            top_n=top_n,
            truncate=truncate,
            raw_scores=raw_scores,
        )

    def score(
        self,
        text: Prompt | Sequence[Message],
        *,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
    ) -> _Floats:
        """Log-probabilities of every next token, at every place of a text.

        Args:
            text: token ids, which are taken as they are; a text, which becomes
                ``tokenize(text, add_special=True)``; or messages, which the model's chat template
                writes out without the beginning of a further answer.
            adapter, adapter_scale: as for `generate`.

        Returns:
            float32 [T, vocab]: row t holds the natural logs of p(token | tokens 0 to t), so row
            t has the probabilities of the token in place t + 1. The width is that of the model's
            logits, which may be padded beyond the tokenizer's vocabulary. Besides the result
            itself memory for a few rows is needed.

        Raises:
            InvalidParameterError, ContextLengthError, BackendError: as for `generate`.
        """
        uses = adapter_uses(adapter, adapter_scale)
        ready = self._runtime.ready()
        ready.model.require("logits")
        tokens = self._scored_tokens(text)
        sink = AllLogProbs(len(tokens), ready.model.drawn.graph.outputs["logits"].width)
        request = RowsRequest(tokens=tokens, output="logits", sink=sink, adapters=uses)
        compute_rows(ready.engine, [request])
        return sink.result

    def score_next(
        self,
        text: Prompt | Sequence[Message],
        *,
        adapter: AdapterChoice = None,
        adapter_scale: float = 1.0,
    ) -> _Floats:
        """Log-probability that the model gives to each token of a text but the first.

        Like ``score(text)[t, tokens[t + 1]]`` for each t, without the memory for the others.

        Returns:
            float32 [T - 1], natural logs.
        """
        uses = adapter_uses(adapter, adapter_scale)
        ready = self._runtime.ready()
        ready.model.require("logits")
        tokens = self._scored_tokens(text)
        sink = NextLogProbs(tokens)
        request = RowsRequest(tokens=tokens, output="logits", sink=sink, adapters=uses)
        compute_rows(ready.engine, [request])
        return sink.result

    def perplexity(self, text: Prompt | Sequence[Message]) -> float:
        """exp of the mean surprise of the tokens of a text that fits into the context."""
        return perplexity(self.score_next(text))

    def _scored_tokens(self, text: Prompt | Sequence[Message]) -> list[int]:
        ready = self._runtime.ready()
        if is_messages(text):
            return ready.chat.encode(text, add_generation_prompt=False)
        return encode_prompt(ready.model.tokenizer, text, name="text")
