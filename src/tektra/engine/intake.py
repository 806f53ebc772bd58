"""Checks a request and makes a job of it, on the caller's thread.

What takes long, such as hashing a prompt, is done here and not on the engine's thread. It knows
the bounds of the engine; it does not know what else runs.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from tektra.engine.jobs import GenerationJob, Job, Listener, RowsJob
from tektra.engine.kv_blocks import num_blocks_for
from tektra.engine.prefix_cache import extend_digests, root_digest
from tektra.engine.request import GenerateRequest, Request, RowsRequest, SequenceState
from tektra.engine.sampler import make_sampler
from tektra.engine.sampling_params import SamplingParams
from tektra.engine.sliding import SlidingContext
from tektra.errors import ContextLengthError, InvalidParameterError
from tektra.tokenizer import Tokenizer

__all__ = ["Intake"]

_MAX_BREAKER_SETS = 16


class Intake:
    """Makes jobs; safe to use from several threads.

    Args:
        tokenizer: the model's.
        context: most tokens that the model reads.
        vocab_size: tokens that it can read, padding of its embedding table included.
        seed: where the seeds of requests come from that name none; None for the operating system.
        native: the extension module with the native sampler; None for the NumPy one.
        shares_blocks: whether sequences use each other's blocks of the cache.
        sliding: how texts that are generated go on beyond the context; None where they do not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context: int,
        vocab_size: int,
        seed: int | None,
        native: ModuleType | None,
        shares_blocks: bool = True,
        sliding: SlidingContext | None = None,
    ) -> None:
        self._sliding = sliding
        self._shares_blocks = shares_blocks
        self._tokenizer = tokenizer
        self._context = context
        self._vocab_size = vocab_size
        self._native = native
        self._scratch: object | None = None if native is None else native.SamplerScratch()
        self._breakers: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._seeds = None if seed is None else random.Random(seed)

    def new_job(
        self,
        request: Request,
        listener: Listener,
        adapters: tuple[tuple[int, float], ...] = (),
    ) -> Job:
        """A job for a request, once everything in it is known to be in order.

        ``adapters`` are the ids and scales of those that the request names.

        Raises:
            InvalidParameterError: a token is not in the vocabulary, or there is none.
            ContextLengthError: the tokens do not fit into the context.
        """
        tokens = self._checked(request)
        dropped = self._shorten(request, tokens)
        sequence = SequenceState(
            id=-1,
            tokens=tokens,
            output="logits" if isinstance(request, GenerateRequest) else request.output,
            first_output=len(tokens) - 1 if isinstance(request, GenerateRequest) else request.first,
            blocks=np.full(num_blocks_for(self._context), -1, dtype=np.int32),
            end_output=None if isinstance(request, GenerateRequest) else request.end,
            segments=None if isinstance(request, GenerateRequest) else request.segments,
            adapters=adapters,
            root=root_digest(adapters),
        )
        if self._shares_blocks:
            # Hashed here, not while others wait for the engine's thread.
            extend_digests(sequence.digests, tokens, sequence.root)
        return self._new_job(request, sequence, listener, dropped)

    def _checked(self, request: Request) -> list[int]:
        """The request's tokens, once they are known to be ones that can be run."""
        given = request.prompt if isinstance(request, GenerateRequest) else request.tokens
        tokens = np.asarray(given)
        if tokens.size == 0:
            raise InvalidParameterError("prompt", "has no tokens")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InvalidParameterError("prompt", "token ids must be a sequence of whole numbers")
        bad = (tokens < 0) | (tokens >= self._vocab_size)
        if bad.any():
            raise InvalidParameterError(
                "prompt",
                f"token {tokens[bad][0]} is not in the vocabulary of {self._vocab_size} tokens",
            )
        result: list[int] = tokens.tolist()
        return result

    def _shorten(self, request: Request, tokens: list[int]) -> int:
        """Takes out what a sliding context has no room for; returns how many tokens those are."""
        if len(tokens) <= self._context:
            return 0
        if self._sliding is None or not isinstance(request, GenerateRequest):
            raise ContextLengthError(len(tokens), self._context)
        return self._sliding.shorten(tokens)

    def _new_job(
        self, request: Request, sequence: SequenceState, listener: Listener, dropped: int
    ) -> Job:
        if isinstance(request, RowsRequest):
            return RowsJob(request, sequence, listener)
        params = request.params
        seed = self._new_seed() if params.seed is None else params.seed
        sampler = make_sampler(
            params,
            self._tokenizer.vocab_size,
            seed,
            self._breaker_ids(params),
            self._native,
            self._scratch,
        )
        # Of a prompt, ids past the vocabulary (padding) have no place in a history of tokens.
        sampler.accept([t for t in sequence.tokens if t < self._tokenizer.vocab_size])
        return GenerationJob(
            request,
            sequence,
            listener,
            sampler=sampler,
            tokenizer=self._tokenizer,
            seed=seed,
            context=self._context,
            sliding=self._sliding,
            num_dropped=dropped,
        )

    def _new_seed(self) -> int:
        if self._seeds is None:
            return int.from_bytes(os.urandom(8), "little")
        with self._lock:
            return self._seeds.getrandbits(64)

    def _breaker_ids(self, params: SamplingParams) -> Sequence[int]:
        """The tokens whose text has one of the strings that end a repetition for DRY."""
        if not params.has_dry:
            return ()
        texts = params.dry_sequence_breakers
        found = self._breakers.get(texts)
        if found is None:
            needles = [text.encode() for text in texts]
            token_bytes = self._tokenizer.token_bytes
            found = tuple(
                token
                for token in range(self._tokenizer.vocab_size)
                if any(needle in token_bytes(token) for needle in needles)
            )
            if len(self._breakers) >= _MAX_BREAKER_SETS:
                self._breakers = {}
            self._breakers = {**self._breakers, texts: found}
        return found
