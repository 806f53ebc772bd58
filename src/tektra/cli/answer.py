"""Takes one answer from a model: its stream goes to the terminal, Ctrl-C stops it.

It knows the public API; it keeps no history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tektra.cli.render import write_answer
from tektra.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Generator

    from tektra.engine.outputs import Chunk, Completion
    from tektra.engine.sampling_params import SamplingParams
    from tektra.llm import LLM

__all__ = ["Answer", "dropped_line", "stream_answer", "timings_line"]

Messages = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Answer:
    """What came of one request.

    Attributes:
        pieces: the text as it was shown.
        completion: the whole answer; None where it was stopped before its end.
        interrupted: whether Ctrl-C stopped it.
    """

    pieces: list[str] = field(default_factory=list)
    completion: Completion | None = None
    interrupted: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def stream_answer(
    llm: LLM,
    prompt: str | Messages,
    params: SamplingParams,
    *,
    show: bool = True,
    adapters: Mapping[str, float] | None = None,
) -> Answer:
    """Generates an answer and writes it to standard output as it comes.

    Text is a prompt that is continued as it is; messages go through the model's template. Ctrl-C
    ends the request and keeps what came until then.

    Args:
        show: False keeps standard output clean.
        adapters: names and scales of the adapters that the model has for it.

    Raises:
        TektraError: the request cannot be served, or failed.
    """
    answer = Answer()
    more: dict[str, Any] = {"adapter": adapters} if adapters else {}
    shown_line_is_open = False
    try:
        chunks: Iterator[Chunk] = (
            llm.generate(prompt, params, stream=True, **more)
            if isinstance(prompt, str)
            else llm.chat(prompt, params, stream=True, **more)
        )
        # Closing the stream is what cancels the request, however this ends.
        with closing(cast("Generator[Chunk]", chunks)):
            for chunk in chunks:
                if chunk.text:
                    answer.pieces.append(chunk.text)
                    if show:
                        write_answer(chunk.text)
                        shown_line_is_open = not chunk.text.endswith("\n")
                if chunk.completion is not None:
                    answer.completion = chunk.completion
    except KeyboardInterrupt:
        answer.interrupted = True
    finally:
        if shown_line_is_open:
            _end_line()
    _raise_failure(answer)
    return answer


def _end_line() -> None:
    sys.stdout.write("\n")
    sys.stdout.flush()


def _raise_failure(answer: Answer) -> None:
    completion = answer.completion
    if completion is not None and completion.finish_reason == "error":
        raise completion.error or BackendError("the request failed")


def dropped_line(completion: Completion) -> str:
    """Says that the context slid."""
    return (
        f"the context is full: {completion.dropped_tokens} tokens gave way between the first and "
        "the newest ones"
    )


def timings_line(completion: Completion) -> str:
    """Counts and rates of an answer on one line."""
    timings = completion.timings
    prompt = f"prompt {completion.prompt_tokens} tokens"
    details = []
    if completion.cached_tokens:
        details.append(f"{completion.cached_tokens} cached")
    if timings.prefill_tokens_per_second is not None:
        details.append(f"{timings.prefill_tokens_per_second:.1f}/s")
    if details:
        prompt += f" ({', '.join(details)})"
    answer = f"answer {completion.completion_tokens} tokens"
    if timings.decode_tokens_per_second is not None:
        answer += f" ({timings.decode_tokens_per_second:.1f}/s)"
    parts = [prompt, answer]
    if timings.time_to_first_token_s is not None:
        parts.append(f"first token {timings.time_to_first_token_s:.3f} s")
    parts += [f"total {timings.total_s:.2f} s", f"seed {completion.seed}"]
    parts.append(f"ended by {completion.finish_reason}")
    return " · ".join(parts)
