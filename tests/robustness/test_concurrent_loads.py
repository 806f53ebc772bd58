"""D30 and loading side by side: many loads of one file, cancelled at every stage, and neighbours.

What one caller does, or what happens to its request, changes nothing for the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.waiting import wait_for

from tektra import LLM, Completion
from tektra.engine import loader
from tektra.errors import CancelledError, InvalidParameterError
from tektra.hub import ResolvedModel
from tektra.progress import CancelToken, ProgressEvent

PROMPT = "hello world"
OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1, "context": 128}


def tokens(llm: LLM, prompt: str = PROMPT, count: int = 12) -> list[int]:
    return llm.generate(prompt, max_tokens=count, temperature=0.0, ignore_eos=True).token_ids


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    with LLM(tiny, **OPTIONS) as llm:
        return tokens(llm)


@pytest.fixture
def pinned(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads have a digest to verify, as those of the catalog have."""
    resolved = ResolvedModel(tiny, hashlib.sha256(tiny.read_bytes()).hexdigest(), "tiny", "test")
    monkeypatch.setattr(loader, "resolve", lambda reference: resolved)


# One file, many models


def test_two_models_of_one_file(tiny: Path, expected: list[int]) -> None:
    with LLM(tiny, **OPTIONS) as first, LLM(tiny, **OPTIONS) as second:
        assert tokens(first) == tokens(second) == expected
        first.close()
        assert tokens(second) == expected


def test_loads_in_four_threads(tiny: Path, expected: list[int], pinned: None) -> None:
    """All verify the same file, and write the same list of verified files."""
    together = threading.Barrier(4)

    def work(_: int) -> list[int]:
        together.wait(10)
        with LLM(tiny, **OPTIONS) as llm:
            return tokens(llm)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(work, range(4))) == [expected] * 4


async def test_loads_in_one_event_loop(tiny: Path, expected: list[int]) -> None:
    loads = (LLM.load_async(tiny, **OPTIONS) for _ in range(4))
    models = await asyncio.gather(*loads)
    answers = [llm.agenerate(PROMPT, max_tokens=12, temperature=0.0) for llm in models]
    assert [answer.token_ids for answer in await asyncio.gather(*answers)] == [expected] * 4
    await asyncio.gather(*(llm.close_async() for llm in models))


# Cancelled at every event


def num_events(tiny: Path) -> int:
    events: list[ProgressEvent] = []
    LLM(tiny, progress=events.append, **OPTIONS).close()
    assert {event.stage for event in events} >= {"map", "pack", "warm up"}
    return len(events)


def cancelling(token: CancelToken, at: int) -> Callable[[ProgressEvent], None]:
    """Cancels at the event of this number."""
    seen = iter(range(10_000))

    def progress(event: ProgressEvent) -> None:
        if next(seen) == at:
            token.cancel()

    return progress


def test_cancelled_at_each_event(tiny: Path, expected: list[int], pinned: None) -> None:
    before = threading.active_count()
    for at in range(num_events(tiny)):
        token = CancelToken()
        with pytest.raises(CancelledError):
            LLM(tiny, progress=cancelling(token, at), cancel=token, **OPTIONS)
        assert threading.active_count() == before
    with LLM(tiny, **OPTIONS) as llm:
        assert tokens(llm) == expected


def test_closed_at_each_event(tiny: Path) -> None:
    """By another thread, while one loads and a third waits for it."""
    before = threading.active_count()
    for at in range(num_events(tiny)):
        token = CancelToken()
        llm = LLM(tiny, wait=False, progress=cancelling(token, at), cancel=token, **OPTIONS)
        with pytest.raises(CancelledError):
            llm.wait_ready(10)
        assert llm.health().status == "failed"
        llm.close()
        assert llm.health().status == "closed"
    wait_for(lambda: threading.active_count() == before)


def test_an_observer_that_raises(tiny: Path, pinned: None) -> None:
    """Its error is the caller's, on whichever thread it was called, and ends the load."""

    class Own(Exception):
        pass

    before = threading.active_count()
    for stage in ("map", "verify", "pack", "warm up"):

        def progress(event: ProgressEvent, stage: str = stage) -> None:
            if event.stage == stage:
                raise Own(stage)

        with pytest.raises(Own, match=stage):
            LLM(tiny, progress=progress, **OPTIONS)
        assert threading.active_count() == before


def test_one_load_is_cancelled_among_four(tiny: Path, expected: list[int]) -> None:
    def work(number: int) -> list[int] | None:
        token = CancelToken()
        progress = cancelling(token, 5 if number == 2 else -1)
        try:
            with LLM(tiny, progress=progress, cancel=token, **OPTIONS) as llm:
                return tokens(llm)
        except CancelledError:
            return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert results == [expected, expected, None, expected]


def test_one_file_fails_among_four(tiny: Path, tmp_path: Path, expected: list[int]) -> None:
    bad = tmp_path / "bad.gguf"
    shutil.copyfile(tiny, bad)
    with bad.open("r+b") as file:
        file.truncate(100_000)

    def work(number: int) -> list[int] | str:
        try:
            with LLM(bad if number % 2 else tiny, **OPTIONS) as llm:
                return tokens(llm)
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [expected, "FormatError"] * 4


# Neighbours in a batch

PROMPTS = ["hello world", "the word", "h", "llll oooo hello hello"]


@pytest.fixture(scope="module")
def llm(tiny: Path) -> Iterator[LLM]:
    with LLM(tiny, max_batch=8, **OPTIONS) as model:
        yield model


def answer(llm: LLM, prompt: str) -> Completion:
    return llm.generate(prompt, max_tokens=24, temperature=0.8, seed=5, logprobs=3, ignore_eos=True)


def leave_at_once(llm: LLM) -> None:
    stream = llm.generate("hello " * 12, stream=True, max_tokens=60)
    next(stream)
    stream.close()


def leave_later(llm: LLM) -> None:
    stream = llm.generate("world", stream=True, max_tokens=60)
    for _ in zip(range(10), stream, strict=False):
        pass
    stream.close()


def be_refused(llm: LLM) -> None:
    with pytest.raises(InvalidParameterError):
        llm.generate("hello", max_tokens=8, logit_bias={5: float("nan")})


def raise_in_the_listener(llm: LLM) -> None:
    def read() -> None:
        for _ in llm.generate("world", stream=True, max_tokens=60):
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        read()


@pytest.mark.parametrize(
    "neighbour", [leave_at_once, leave_later, be_refused, raise_in_the_listener]
)
def test_a_neighbour_that_aborts_changes_nothing(
    llm: LLM, neighbour: Callable[[LLM], None]
) -> None:
    """D30: tokens and log-probabilities are those of the request alone, to the bit."""
    alone = [answer(llm, prompt) for prompt in PROMPTS]
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            neighbour(llm)

    with ThreadPoolExecutor(len(PROMPTS) + 2) as pool:
        disturbing = [pool.submit(disturb) for _ in range(2)]
        try:
            for _ in range(5):
                together = list(pool.map(lambda prompt: answer(llm, prompt), PROMPTS))
                for one, other in zip(alone, together, strict=True):
                    assert one.token_ids == other.token_ids
                    assert one.logprobs == other.logprobs
        finally:
            stop.set()
        for future in disturbing:
            future.result()
    wait_for(lambda: llm.status == "ready")
