"""Shows the stages of a load on standard error, where that is a terminal; otherwise nothing.

It listens to `ProgressEvent` and knows nothing of what is being done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tektra.cli.render import console, is_terminal, safe_text
from tektra.progress import ProgressCallback, ProgressEvent, ignore_progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress_bar"]


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Gives a callback that draws one bar for each stage; the bars are gone afterwards."""
    if not is_terminal(sys.stderr):
        yield ignore_progress
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield _Bars(progress)


class _Bars:
    """Turns events into bars. Called from any thread; rich locks for itself."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: ProgressEvent) -> None:
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._progress.add_task(safe_text(event.stage), total=None, amount="")
            self._tasks[event.stage] = task
        # rich shows a bar of total 0 as pulsing; a stage without work is done.
        total = event.total if event.total != 0 else 1
        done = event.done if event.total != 0 else 1
        self._progress.update(task, completed=done, total=total, amount=_amount(event))


def _amount(event: ProgressEvent) -> str:
    if event.unit == "bytes":
        mebi = 1 << 20
        total = f" / {event.total / mebi:,.0f}" if event.total is not None else ""
        return f"{event.done / mebi:,.0f}{total} MiB"
    if event.total is not None and event.total <= 1:
        return ""  # one thing that is done or not
    total = f" / {event.total:,}" if event.total is not None else ""
    return f"{event.done:,}{total} {event.unit}"
