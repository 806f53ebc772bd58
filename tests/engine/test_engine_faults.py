"""Faults inside the engine: whatever goes wrong in there, nobody is left waiting for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.fixtures.fake_executable import FakeExecutable, greedy
from tests.fixtures.waiting import wait_for

from tektra.engine.delivery import complete
from tektra.engine.engine import Engine
from tektra.engine.jobs import Event, Failure, GenerationJob
from tektra.engine.outputs import Completion
from tektra.engine.request import GenerateRequest
from tektra.engine.sampling_params import SamplingParams
from tektra.errors import BackendError, RequestError
from tektra.tokenizer import Tokenizer

MakeEngine = Callable[..., tuple[Engine, FakeExecutable]]
PROMPT = list(range(100, 150))


def request(max_tokens: int = 8) -> GenerateRequest:
    params = SamplingParams.greedy(max_tokens=max_tokens, ignore_eos=True)
    return GenerateRequest(prompt=PROMPT, params=params)


def answer(engine: Engine) -> Completion:
    return complete(engine, [request()], raise_errors=True)[0]


def broken(*args: Any) -> None:
    raise ZeroDivisionError


def test_a_failure_that_fails(
    make_engine: MakeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step fails, and so does putting together what there is of the answer."""
    engine, executable = make_engine()
    executable.errors.append(BackendError("the first failure"))
    with monkeypatch.context() as patch:
        patch.setattr(GenerationJob, "_flush", broken)
        with pytest.raises(BackendError, match="the first failure"):
            answer(engine)
    assert answer(engine).token_ids == greedy(PROMPT, 8, tokenizer.vocab_size)
    assert engine.stats().kv_blocks_used == 0


def test_a_cancellation_that_fails(
    make_engine: MakeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, executable = make_engine()
    executable.seconds = 0.002
    events: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr(GenerationJob, "cancel", broken)
        handle = engine.submit(request(400), events.append)
        handle.cancel()
        wait_for(lambda: handle.done)
    assert isinstance(events[-1], Failure)
    assert answer(engine).token_ids == greedy(PROMPT, 8, tokenizer.vocab_size)


def test_closing_with_a_cancellation_that_fails(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, executable = make_engine()
    executable.seconds = 0.002
    events: list[Event] = []
    monkeypatch.setattr(GenerationJob, "cancel", broken)
    for _ in range(2):
        engine.submit(request(400), events.append)
    wait_for(lambda: bool(executable.steps))
    engine.close()
    assert [type(event) for event in events] == [Failure, Failure]
    assert executable.closed


def test_blocks_that_cannot_be_freed(
    make_engine: MakeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = make_engine()
    with monkeypatch.context() as patch:
        patch.setattr(engine._scheduler, "remove", broken)
        assert answer(engine).finish_reason == "length"
    assert answer(engine).token_ids == greedy(PROMPT, 8, tokenizer.vocab_size)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_itself_ends(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something ends the engine's thread: all requests are ended, further ones refused."""
    engine, executable = make_engine(max_sequences=1)
    executable.gate = threading.Event()

    def end() -> None:
        raise SystemExit

    results: list[Completion] = []
    callers = [threading.Thread(target=lambda: results.append(answer(engine))) for _ in range(3)]
    for caller in callers:
        caller.start()
    wait_for(lambda: engine.stats().requests_running + engine.stats().requests_waiting == 3)
    monkeypatch.setattr(engine, "_step", end)
    executable.gate.set()
    for caller in callers:
        caller.join(10)
    assert [result.finish_reason for result in results] == ["cancelled"] * 3
    wait_for(lambda: not engine.alive)
    assert executable.closed
    with pytest.raises(RequestError, match="closed"):
        answer(engine)


def test_no_thread_to_be_had(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BackendError, match="can't start new thread"):
        make_engine()
