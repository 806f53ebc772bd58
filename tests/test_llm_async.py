"""`LLM` under an event loop: load, generate, stream, cancel, close."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.tiny_model import write_tiny_model

from tektra import (
    LLM,
    Completion,
    InvalidParameterError,
    ModelNotFoundError,
    ProgressEvent,
    RequestError,
)

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
ENDLESS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 250, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "hello world"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("llm") / "tiny.gguf")


@pytest.fixture
async def llm(model: Path) -> AsyncIterator[LLM]:
    async with await LLM.load_async(model, device="reference") as loaded:
        yield loaded


async def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        await asyncio.sleep(0.002)


async def test_generate(llm: LLM) -> None:
    one = await llm.agenerate("hello", **GREEDY)
    assert isinstance(one, Completion)
    assert one.token_ids == llm.generate("hello", **GREEDY).token_ids
    several = await llm.agenerate(["hello", "world"], **GREEDY)
    assert [result.completion_tokens for result in several] == [12, 12]


async def test_stream(llm: LLM) -> None:
    chunks = [chunk async for chunk in llm.agenerate("hello", stream=True, **GREEDY)]
    assert "".join(chunk.text for chunk in chunks) == llm.generate("hello", **GREEDY).text
    assert chunks[-1].finish_reason == "length"


async def test_chat(llm: LLM) -> None:
    expected = llm.chat(MESSAGES, **GREEDY)
    assert (await llm.achat(MESSAGES, **GREEDY)).token_ids == expected.token_ids
    chunks = [chunk async for chunk in llm.achat(MESSAGES, stream=True, **GREEDY)]
    assert "".join(chunk.text for chunk in chunks) == expected.text


async def test_many_at_once(llm: LLM) -> None:
    results = await asyncio.gather(*(llm.agenerate("hello", **GREEDY) for _ in range(20)))
    assert len({tuple(result.token_ids) for result in results}) == 1


async def test_the_loop_goes_on_meanwhile(llm: LLM) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    result = await llm.agenerate("hello", **ENDLESS)
    ticker.cancel()
    assert ticks > result.timings.total_s * 100


async def test_cancelling_a_task_frees_its_blocks(llm: LLM) -> None:
    task = asyncio.create_task(llm.agenerate("hello", **ENDLESS))
    await wait_for(lambda: llm.stats().requests_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for(lambda: llm.status == "ready", 1.0)
    stats = llm.stats()
    assert (stats.kv_blocks_used, stats.requests_cancelled) == (0, 1)


async def test_closing_an_iterator_frees_its_blocks(llm: LLM) -> None:
    stream = llm.agenerate("hello", stream=True, **ENDLESS)
    await anext(stream)
    assert llm.status == "busy"
    await stream.aclose()
    await wait_for(lambda: llm.status == "ready", 1.0)
    assert llm.stats().kv_blocks_used == 0


async def test_breaking_out_of_a_stream_in_a_cancelled_task(llm: LLM) -> None:
    async def read() -> None:
        async for _ in llm.achat(MESSAGES, stream=True, **ENDLESS):
            pass

    task = asyncio.create_task(read())
    await wait_for(lambda: llm.stats().generated_tokens > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for(lambda: llm.status == "ready", 1.0)


async def test_refusals(llm: LLM) -> None:
    with pytest.raises(InvalidParameterError, match="temprature"):
        await llm.agenerate("hello", temprature=1.0)
    with pytest.raises(InvalidParameterError, match="has no tokens"):
        await llm.agenerate("")
    with pytest.raises(InvalidParameterError, match="has no tokens"):
        await anext(llm.agenerate("", stream=True))


async def test_load_reports_and_fails(model: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    llm = await LLM.load_async(model, device="reference", progress=events.append)
    assert {event.stage for event in events} == {"map", "pack", "warm up"}
    await llm.close_async()
    assert llm.status == "closed"
    with pytest.raises(RequestError, match="was closed"):
        await llm.agenerate("a")
    with pytest.raises(ModelNotFoundError):
        await LLM.load_async(tmp_path / "none.gguf")


async def test_cancelling_the_loading_task(model: Path) -> None:
    before = {t.name for t in threading.enumerate()}
    inside, gate = threading.Event(), threading.Event()

    def progress(event: ProgressEvent) -> None:
        if event.stage == "pack":
            inside.set()
            gate.wait(10)

    task = asyncio.create_task(LLM.load_async(model, device="reference", progress=progress))
    await asyncio.to_thread(inside.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    left = {t.name for t in threading.enumerate()} - before
    assert not {name for name in left if name.startswith("tektra")}
