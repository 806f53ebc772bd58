"""Functions that other threads want called on the engine's thread, between two steps.

It knows neither steps nor what the functions do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tektra.errors import RequestError

__all__ = ["Calls"]


class _Call:
    __slots__ = ("done", "error", "function", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Calls:
    """Calls that wait for the engine's thread."""

    def __init__(self) -> None:
        self._waiting: list[_Call] = []
        self._lock = threading.Lock()
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Adds a function; what is returned waits for its result and raises what it raises."""
        call = _Call(function)
        with self._lock:
            if self._closed:
                raise RequestError("the model was closed", remedy="load it again")
            self._waiting.append(call)

        def wait() -> Any:
            call.done.wait()
            if call.error is not None:
                raise call.error
            return call.result

        return wait

    def run(self) -> None:
        """Calls all that wait, in order. For the engine's thread."""
        with self._lock:
            calls, self._waiting = self._waiting, []
        for call in calls:
            try:
                call.result = call.function()
            except BaseException as error:  # handed to the thread that waits
                call.error = error
            call.done.set()

    def close(self) -> None:
        """Fails all that wait and all that come later."""
        with self._lock:
            self._closed = True
            calls, self._waiting = self._waiting, []
        for call in calls:
            call.error = RequestError("the model was closed", remedy="load it again")
            call.done.set()
