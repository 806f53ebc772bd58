"""A model that says what it is told to, at the speed it is told to; also a program that uses it.

Run as a program it is `tektra` with this model in the place of the real one: an answer is the
last message in capitals, one word at a time, or what `TEKTRA_TEST_SCRIPT` says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, ClassVar, Self

from tektra.engine.outputs import Chunk, Completion, Timings
from tektra.engine.sampling_params import SamplingParams
from tektra.engine.stats import EngineStats
from tektra.errors import ContextLengthError
from tektra.progress import ProgressEvent

CONTEXT = 64


class FakeLLM:
    """Has what the command line uses of `LLM`.

    Attributes:
        requests: every prompt or list of messages that was asked for.
        params: the parameters of each.
        recommended: the parameters that every such model recommends.
        cancelled: how many streams were closed before their end.
    """

    recommended: ClassVar[dict[str, Any]] = {}

    def __init__(self, reference: str = "fake", **options: Any) -> None:
        self.reference = reference
        self.options = options
        self.delay = float(os.environ.get("TEKTRA_TEST_DELAY", "0"))
        self.script = os.environ.get("TEKTRA_TEST_SCRIPT")
        self.requests: list[Any] = []
        self.params: list[SamplingParams] = []
        self.cancelled = 0
        self.closed = False
        self.chat_template = True
        self.default_sampling = SamplingParams(**FakeLLM.recommended)
        progress = options.get("progress")
        if progress is not None:
            progress(ProgressEvent("map", reference, 1, 1, "items"))
            progress(ProgressEvent("pack", "x", 5, 10, "bytes"))

    @property
    def capabilities(self) -> SimpleNamespace:
        return SimpleNamespace(generation=True, chat_template=self.chat_template, context=CONTEXT)

    def stats(self) -> EngineStats:
        return EngineStats(requests_finished=len(self.requests), memory={"weights": 2048})

    def wait_packed_copy(self, timeout: float) -> str:
        return "none"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closed = True

    def chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams, *, stream: bool
    ) -> Generator[Chunk, None, None]:
        assert stream
        return self._stream(list(messages), messages[-1]["content"], params)

    def generate(
        self, prompt: str, params: SamplingParams, *, stream: bool
    ) -> Generator[Chunk, None, None]:
        assert stream
        return self._stream(prompt, prompt, params)

    def _stream(
        self, request: Any, text: str, params: SamplingParams
    ) -> Generator[Chunk, None, None]:
        self.requests.append(request)
        self.params.append(params)
        if "too long" in text:
            raise ContextLengthError(100, CONTEXT)
        answer = self.script if self.script is not None else text.upper()
        pieces = answer.replace("\\e", "\x1b").split(" ")
        pieces = [piece if n == 0 else f" {piece}" for n, piece in enumerate(pieces)]
        finish = "stop"
        if params.max_tokens is not None and len(pieces) > params.max_tokens:
            pieces, finish = pieces[: params.max_tokens], "length"
        done = False
        try:
            for number, piece in enumerate(pieces):
                if number == 1 and (started := os.environ.get("TEKTRA_TEST_STARTED")):
                    Path(started).touch()  # for a test that must know it is in the middle
                time.sleep(self.delay)
                yield Chunk(text=piece, token_ids=[number])
            completion = Completion(
                text="".join(pieces),
                token_ids=list(range(len(pieces))),
                finish_reason=finish,  # type: ignore[arg-type]
                stop_reason=None,
                prompt_tokens=7,
                cached_tokens=0,
                completion_tokens=len(pieces),
                seed=params.seed if params.seed is not None else 1,
                timings=Timings(total_s=1.0, time_to_first_token_s=0.25),
            )
            done = True
            yield Chunk(text="", token_ids=[], finish_reason="stop", completion=completion)
        finally:
            if not done:
                self.cancelled += 1
                print("[cancelled]", file=__import__("sys").stderr, flush=True)


if __name__ == "__main__":
    import tektra.llm
    from tektra.cli.main import main

    tektra.llm.LLM = FakeLLM  # type: ignore[assignment,misc]
    main()
