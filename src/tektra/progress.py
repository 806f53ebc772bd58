"""One event type for every long job, and the flag that cancels one.

Loading, downloading, packing and prefilling all report through these. It does not know who
listens: a progress bar, a callback of the embedding application, or nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tektra.errors import CancelledError

__all__ = ["CancelToken", "ProgressCallback", "ProgressEvent", "Unit", "ignore_progress"]

Unit = Literal["bytes", "tokens", "items"]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far one stage of a job is.

    Attributes:
        stage: what is being done: ``"map"``, ``"verify"``, ``"pack"``, ``"warm up"`` ...
        item: the file, tensor or part in hand; empty where a stage has no parts.
        done: how much is done, in ``unit``.
        total: how much there is, in ``unit``; ``None`` while that is not known.
        unit: what ``done`` and ``total`` count.
    """

    stage: str
    item: str
    done: int
    total: int | None
    unit: Unit

    @property
    def fraction(self) -> float | None:
        """Share of the stage that is done, in [0, 1]; ``None`` while the total is not known."""
        if self.total is None:
            return None
        return 1.0 if self.total == 0 else min(1.0, self.done / self.total)


ProgressCallback = Callable[[ProgressEvent], None]


def ignore_progress(event: ProgressEvent) -> None:
    """The callback of those who do not listen."""


class CancelToken:
    """A flag that one thread sets and a long job looks at between its steps."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Asks the job to stop at its next check. Safe from any thread, any number of times."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises `CancelledError` once `cancel` was called."""
        if self._event.is_set():
            raise CancelledError("cancelled")
