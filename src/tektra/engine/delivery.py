"""Brings what the engine's thread produces to those who asked: blocking, as iterators, or async.

Whoever stops reading, by an exception, by closing an iterator or by cancelling a task, has their
requests cancelled. It knows events, not what they are about.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence

from tektra.engine.engine import Engine, RequestHandle
from tektra.engine.jobs import Event, Failure, Listener, RowsDone
from tektra.engine.outputs import Chunk, Completion
from tektra.engine.request import GenerateRequest, Request, RowsRequest
from tektra.errors import QueueFullError

__all__ = ["aiter_chunks", "complete", "complete_async", "compute_rows", "iter_chunks"]

# On Windows a wait without a limit cannot be interrupted by Ctrl-C.
_WAIT_S = 0.5


class _Submitter:
    """Hands in requests in order, no more at once than the engine takes."""

    def __init__(self, engine: Engine, requests: Sequence[Request], listener: Listener) -> None:
        self._engine = engine
        self._listener = listener
        self._pending = deque(requests)
        self._handles: list[RequestHandle] = []
        self.num_open = len(requests)

    def submit(self) -> None:
        while self._pending:
            try:
                handle = self._engine.submit(self._pending[0], self._listener)
            except QueueFullError:
                if any(not handle.done for handle in self._handles):
                    return  # one of ours will make room
                raise
            self._handles.append(handle)
            self._pending.popleft()

    def note(self, event: Event) -> None:
        if not isinstance(event, Chunk) or event.finish_reason is not None:
            self.num_open -= 1
            self.submit()

    def cancel(self) -> None:
        self._pending.clear()
        for handle in self._handles:
            handle.cancel()


def _events(engine: Engine, requests: Sequence[Request]) -> Generator[Event, None, None]:
    """What the engine says about some requests, until all are done."""
    inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
    submitter = _Submitter(engine, requests, inbox.put)
    try:
        submitter.submit()
        while submitter.num_open:
            try:
                event = inbox.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            submitter.note(event)
            yield event
    finally:
        submitter.cancel()


async def _aevents(engine: Engine, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
    """The same for a coroutine."""
    import asyncio  # here, because programs without an event loop would pay for it in start-up

    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Event] = asyncio.Queue()

    def listener(event: Event) -> None:
        loop.call_soon_threadsafe(inbox.put_nowait, event)

    submitter = _Submitter(engine, requests, listener)
    try:
        submitter.submit()
        while submitter.num_open:
            event = await inbox.get()
            submitter.note(event)
            yield event
    finally:
        submitter.cancel()


def iter_chunks(
    engine: Engine, requests: Sequence[GenerateRequest]
) -> Generator[Chunk, None, None]:
    """Chunks of all requests as they come. The first failure is raised and ends the others."""
    for event in _events(engine, requests):
        yield _chunk(event)


async def aiter_chunks(
    engine: Engine, requests: Sequence[GenerateRequest]
) -> AsyncGenerator[Chunk, None]:
    """The same for a coroutine."""
    events = _aevents(engine, requests)
    try:
        async for event in events:
            yield _chunk(event)
    finally:
        await events.aclose()


def complete(
    engine: Engine, requests: Sequence[GenerateRequest], *, raise_errors: bool
) -> list[Completion]:
    """Completions in the order of the requests; a failed one has ``finish_reason`` "error"."""
    results: dict[int, Completion] = {}
    for event in _events(engine, requests):
        _collect(event, results, raise_errors)
    return [results[request.index] for request in requests]


async def complete_async(
    engine: Engine, requests: Sequence[GenerateRequest], *, raise_errors: bool
) -> list[Completion]:
    """The same for a coroutine."""
    results: dict[int, Completion] = {}
    events = _aevents(engine, requests)
    try:
        async for event in events:
            _collect(event, results, raise_errors)
    finally:
        await events.aclose()
    return [results[request.index] for request in requests]


def compute_rows(engine: Engine, requests: Sequence[RowsRequest]) -> None:
    """Waits until the sinks of all requests have their rows; raises the first failure."""
    for event in _events(engine, requests):
        if isinstance(event, Failure):
            raise event.error


def _chunk(event: Event) -> Chunk:
    if isinstance(event, Failure):
        raise event.error
    assert not isinstance(event, RowsDone)
    return event


def _collect(event: Event, results: dict[int, Completion], raise_errors: bool) -> None:
    if isinstance(event, Failure):
        if raise_errors or event.completion is None:
            raise event.error
        results[event.index] = event.completion
    elif isinstance(event, Chunk) and event.completion is not None:
        results[event.index] = event.completion
