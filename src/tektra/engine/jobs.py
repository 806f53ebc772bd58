"""A request while it is worked on: what is done with the model's output for it.

A job samples, turns tokens into text and decides when the answer ends. It knows its own sequence
and who listens; it does not know what else is in the batch.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tektra.engine.outputs import (
    Chunk,
    Completion,
    FinishReason,
    Timings,
    TokenLogprob,
    TopLogprob,
)
from tektra.engine.request import GenerateRequest, RowsRequest, SequenceState
from tektra.engine.sampler import Sampler
from tektra.engine.sampling_params import Sampled
from tektra.engine.sliding import SlidingContext
from tektra.engine.stats import StatsRecorder
from tektra.errors import CancelledError, TektraError
from tektra.tokenizer.base import Tokenizer
from tektra.tokenizer.detokenizer import StreamDetokenizer

__all__ = ["Event", "Failure", "GenerationJob", "Job", "Listener", "Outcome", "RowsDone", "RowsJob"]


@dataclass(frozen=True, slots=True)
class RowsDone:
    """The sink of a `RowsRequest` has all rows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request failed; ``completion`` is what was generated before that."""

    error: TektraError
    completion: Completion | None = None
    index: int = 0


Event: TypeAlias = Chunk | RowsDone | Failure
"""What a listener is told. A chunk with a finish reason, `RowsDone` or `Failure` is the last."""

Listener: TypeAlias = Callable[[Event], None]
"""Called on the engine's thread: it must return quickly. If it raises, its request is cancelled."""

Outcome: TypeAlias = Literal["finished", "cancelled", "failed"]


class Job(ABC):
    """One request in work. All methods are called on the engine's thread."""

    def __init__(self, sequence: SequenceState, listener: Listener) -> None:
        self.sequence = sequence
        self.submitted = time.perf_counter()
        self.started: float | None = None
        self.outcome: Outcome | None = None
        self.done = False
        self.must_restart = False
        """Whether the sequence has other tokens than those that were computed for it."""
        self._listener = listener
        self._last_event: Event | None = None
        self._abandoned = False

    @property
    def has_generated(self) -> bool:
        """Whether a token was generated."""
        return False

    @abstractmethod
    def consume(self, rows: NDArray[np.float32], stats: StatsRecorder) -> None:
        """Takes the output rows [n, width] of the sequence's next tokens.

        Sets `outcome` when that was all.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Ends it because the caller asked for that."""

    @abstractmethod
    def fail(self, error: TektraError) -> None:
        """Ends it because something went wrong."""

    def give_up(self, error: TektraError) -> None:
        """Ends it where `cancel` or `fail` themselves failed. Cannot fail."""
        self._end("failed", Failure(error))

    def deliver(self) -> None:
        """Tells the listener how it ended. Its blocks are free by now."""
        if self._last_event is not None:
            self._emit(self._last_event)

    def _end(self, outcome: Outcome, event: Event) -> None:
        self.outcome = outcome
        self._last_event = event

    def _emit(self, event: Event) -> None:
        try:
            self._listener(event)
        except Exception:  # whatever it is, nobody reads any more
            self._abandoned = True


class RowsJob(Job):
    """Hands the model's output at every token to a sink."""

    def __init__(self, request: RowsRequest, sequence: SequenceState, listener: Listener) -> None:
        super().__init__(sequence, listener)
        self._sink = request.sink

    def consume(self, rows: NDArray[np.float32], stats: StatsRecorder) -> None:
        sequence = self.sequence
        self._sink(sequence.first_output, rows)
        sequence.first_output += len(rows)
        if sequence.first_output in (len(sequence.tokens), sequence.end_output):
            self._end("finished", RowsDone())

    def cancel(self) -> None:
        self._end("cancelled", Failure(CancelledError("the request was cancelled")))

    def fail(self, error: TektraError) -> None:
        self._end("failed", Failure(error))


class GenerationJob(Job):
    """Generates one answer.

    Args:
        request: what is asked.
        sequence: its tokens, so far those of the prompt.
        listener: told of chunks.
        sampler: has the prompt in its history already.
        tokenizer: turns tokens into text.
        seed: the sampler's, to be reported.
        context: tokens that the model can read.
        sliding: how the text goes on beyond them; None where it ends there.
        num_dropped: tokens that were taken out of the prompt, since they were too many.
    """

    def __init__(
        self,
        request: GenerateRequest,
        sequence: SequenceState,
        listener: Listener,
        *,
        sampler: Sampler,
        tokenizer: Tokenizer,
        seed: int,
        context: int,
        sliding: SlidingContext | None = None,
        num_dropped: int = 0,
    ) -> None:
        super().__init__(sequence, listener)
        params = request.params
        self._stream = request.stream
        self._index = request.index
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._seed = seed
        self._vocab_size = tokenizer.vocab_size
        self._num_read = len(sequence.tokens)
        self._num_dropped = num_dropped
        self._num_prompt = self._num_read + num_dropped
        self._sliding = sliding
        # The last token generated is never read, so it needs no place in the context.
        room = context - self._num_read + 1
        if sliding is not None:  # one context of text, where nobody says how much
            self._max_tokens = params.max_tokens or context
        else:
            self._max_tokens = room if params.max_tokens is None else min(room, params.max_tokens)
        self._min_tokens = params.min_tokens
        own_ends: frozenset[int] = frozenset() if params.ignore_eos else tokenizer.eos_ids
        self._end_tokens = own_ends.union(params.stop_token_ids)
        self._suppressed = sorted(i for i in self._end_tokens if i < self._vocab_size)
        self._detokenizer = StreamDetokenizer(
            tokenizer, stop=params.stop, at_start=not request.continues_text
        )
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []
        self._num_sent = self._num_streamed = 0
        self._first_token: float | None = None
        self._last_token = 0.0

    @property
    def has_generated(self) -> bool:
        return self._first_token is not None

    def consume(self, rows: NDArray[np.float32], stats: StatsRecorder) -> None:
        suppressed = self._suppressed if len(self._token_ids) < self._min_tokens else ()
        # Rows past the vocabulary are padding of the embedding table, not tokens.
        sampled = self._sampler.sample(rows[0, : self._vocab_size], suppressed=suppressed)
        token = sampled.token
        self._note_time(stats)
        self._token_ids.append(token)
        if self._logprobs is not None:
            self._logprobs.append(self._record(sampled))
        if token in self._end_tokens:
            return self._finish("stop", token)
        text = self._detokenizer.push(token)
        if text:
            self._texts.append(text)
        if self._detokenizer.stopped is not None:
            return self._finish("stop", self._detokenizer.stopped)
        if len(self._token_ids) >= self._max_tokens:
            return self._finish("length")
        self._append(token)
        if text and self._stream:
            self._emit(self._chunk(text))
        if self._abandoned:
            self.cancel()
        return None

    def _append(self, token: int) -> None:
        """Puts a token where the model reads it next."""
        sequence = self.sequence
        sequence.tokens.append(token)
        if self._sliding is not None:
            dropped = self._sliding.shorten(sequence.tokens)
            self._num_dropped += dropped
            self.must_restart = dropped > 0
        sequence.first_output = len(sequence.tokens) - 1

    def cancel(self) -> None:
        self._finish("cancelled")

    def fail(self, error: TektraError) -> None:
        self._flush()
        completion = self._completion("error", error=error)
        self._end("failed", Failure(error, completion, self._index))

    def _note_time(self, stats: StatsRecorder) -> None:
        now = time.perf_counter()
        if self._first_token is None:
            self._first_token = now
            stats.time_to_first_token.append(now - self.submitted)
            stats.cached_tokens += self.sequence.num_cached
        else:
            stats.inter_token.append(now - self._last_token)
        self._last_token = now
        stats.generated_tokens += 1

    def _flush(self) -> None:
        rest = self._detokenizer.finish()
        if rest:
            self._texts.append(rest)

    def _finish(self, reason: FinishReason, stop_reason: str | int | None = None) -> None:
        self._flush()
        text = "".join(self._texts[self._num_streamed :])
        completion = self._completion(reason, stop_reason)
        outcome: Outcome = "cancelled" if reason == "cancelled" else "finished"
        self._end(outcome, self._chunk(text, reason, completion))

    def _chunk(
        self,
        text: str,
        reason: FinishReason | None = None,
        completion: Completion | None = None,
    ) -> Chunk:
        first, self._num_sent = self._num_sent, len(self._token_ids)
        self._num_streamed = len(self._texts)
        return Chunk(
            text=text,
            token_ids=self._token_ids[first:],
            logprobs=None if self._logprobs is None else self._logprobs[first:],
            index=self._index,
            finish_reason=reason,
            completion=completion,
            dropped_tokens=self._num_dropped,
        )

    def _completion(
        self,
        reason: FinishReason,
        stop_reason: str | int | None = None,
        error: TektraError | None = None,
    ) -> Completion:
        return Completion(
            text="".join(self._texts),
            token_ids=self._token_ids,
            finish_reason=reason,
            stop_reason=stop_reason,
            prompt_tokens=self._num_prompt,
            cached_tokens=self.sequence.num_cached,
            completion_tokens=len(self._token_ids),
            dropped_tokens=self._num_dropped,
            seed=self._seed,
            logprobs=self._logprobs,
            timings=self._timings(),
            error=error,
        )

    def _timings(self) -> Timings:
        now = time.perf_counter()
        started = now if self.started is None else self.started
        if self._first_token is None:
            return Timings(
                queue_s=started - self.submitted,
                prefill_s=now - started,
                total_s=now - self.submitted,
            )
        prefill, decode = self._first_token - started, self._last_token - self._first_token
        computed = self._num_read - self.sequence.num_cached
        return Timings(
            queue_s=started - self.submitted,
            prefill_s=prefill,
            decode_s=decode,
            total_s=self._last_token - self.submitted,
            time_to_first_token_s=self._first_token - self.submitted,
            prefill_tokens_per_second=computed / prefill if prefill > 0.0 else None,
            decode_tokens_per_second=(
                (len(self._token_ids) - 1) / decode if decode > 0.0 else None
            ),
        )

    def _record(self, sampled: Sampled) -> TokenLogprob:
        top = tuple(TopLogprob(*self._shown(token), value) for token, value in sampled.top)
        # The sampler reports it whenever log-probabilities are asked for.
        logprob = float("nan") if sampled.logprob is None else sampled.logprob
        return TokenLogprob(*self._shown(sampled.token), logprob, top)

    def _shown(self, token: int) -> tuple[int, str, bytes]:
        data = self._tokenizer.token_bytes(token)
        return token, data.decode("utf-8", "replace"), data
