"""The packed copy of one loaded model: looked for when it loads, written once it is ready.

It knows whose copy it is and when to write; `PackedStore` knows files, a backend knows layouts.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import PackedWeights
from tektra.config import cache_dir
from tektra.engine.packed_store import PackedStore
from tektra.engine.verify import VerifiedFiles, digest_of_stream, fingerprint
from tektra.errors import CancelledError, TektraError
from tektra.formats.packed import PackedMatrix
from tektra.quantize.view import Source

__all__ = ["PACKED_FOLDER", "PackedCopy", "PackedStatus", "default_store"]

PACKED_FOLDER = "packed"
PackedStatus = Literal["off", "none", "used", "pending", "writing", "written", "failed"]
"""What became of the packed copy of a model. ``off``: copies are switched off. ``none``: there is
none and none will be, as the backend has none or the model is too small to be worth it. ``used``:
the model was loaded from it. ``pending``, ``writing``, ``written``: for the next load. ``failed``:
it could not be written."""

# Packing so much takes some 20 ms.
MIN_BYTES = 8 << 20
# A model that always has requests gets its copy all the same, after so many seconds.
_MAX_WAIT_FOR_IDLE = 60.0
_LOOK_AGAIN = 0.02


def default_store(limit: int) -> PackedStore:
    """The store in the directory for what can be made again.

    Args:
        limit: most bytes of all copies together.
    """
    folder = cache_dir()
    return PackedStore(folder / PACKED_FOLDER, limit, VerifiedFiles(folder / "verified.json"))


class PackedCopy:
    """A backend's `PackedCopies` for one model file, and the thread that writes.

    Args:
        file: the model file, open.
        sha256: the digest that it must have, of a model in one file; None where none is pinned.
        store: where copies are; None for none.
        known: the digests of files that were read before.
        min_bytes: models that take less are just packed; None for `MIN_BYTES`.
    """

    def __init__(
        self,
        file: Source,
        sha256: str | None,
        store: PackedStore | None,
        known: VerifiedFiles,
        min_bytes: int | None = None,
    ) -> None:
        self._paths = file.paths
        self._statuses = file.statuses
        self._variant = file.variant
        whole = len(file.paths) == 1 and not file.variant
        self._pinned = sha256.lower() if sha256 is not None and whole else None
        self._store = store
        self._known = known
        self._min_bytes = MIN_BYTES if min_bytes is None else min_bytes
        self._offer: tuple[str, Sequence[PackedMatrix], Mapping[str, NDArray[np.uint8]]] | None
        self._offer = None
        self._busy: Callable[[], bool] = bool
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.status: PackedStatus = "off" if store is None else "none"
        self.problem: str | None = None

    def source(self) -> str | None:
        """The digest by which the model's copies go; None where it is not known yet."""
        return self._pinned or self._digest([self._known_digest(i) for i in range(self._count)])

    # For the backend

    def find(self, layout: str, matrices: Sequence[PackedMatrix]) -> PackedWeights | None:
        """The matrices of an earlier load; see `tektra.backends.base.PackedCopies`."""
        if self._store is None or not self._worth_it(matrices):
            return None
        source = self.source()
        copy = None if source is None else self._store.open(source, layout, matrices)
        if copy is None:
            return None
        self.status = "used"
        return PackedWeights(copy.matrices, copy.large_pages)

    def offer(
        self,
        layout: str,
        matrices: Sequence[PackedMatrix],
        packed: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Takes matrices to write later on; see `tektra.backends.base.PackedCopies`."""
        if self._store is not None and self._worth_it(matrices):
            self._offer = layout, matrices, packed
            self.status = "pending"

    # For who owns the model

    def start(self, busy: Callable[[], bool]) -> None:
        """Begins to write what was offered, on a thread of low priority.

        Args:
            busy: whether requests run; writing waits while they do, for a minute at most.
        """
        if self._offer is None or self._cancelled.is_set():
            return
        self._busy = busy
        # A daemon, ended by atexit: what is half written is thrown away.
        thread = threading.Thread(target=self._run, name="tektra-packed-copy", daemon=True)
        atexit.register(self.close)
        try:
            thread.start()
        except RuntimeError as error:
            self._give_up(error)
            return
        self._thread = thread

    def wait(self, timeout: float | None = None) -> PackedStatus:
        """Waits until the copy is written, or is given up; returns what became of it."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.status

    def cancel(self) -> None:
        """Asks the thread to end. Does not wait."""
        self._cancelled.set()

    def close(self) -> None:
        """Ends the writing, if it is not done, and frees what it holds."""
        self.cancel()
        thread = self._thread
        if thread is None:
            self._offer = None
        elif thread is not threading.current_thread() and thread.is_alive():
            # A disk that takes longer than that to note what it has must not hold anybody up.
            thread.join(2.0)
        atexit.unregister(self.close)

    # The thread

    def _run(self) -> None:
        try:
            _lower_priority()
            self._write()
        except CancelledError:
            self.status = "none"
        except (OSError, TektraError, MemoryError) as error:
            self._give_up(error)
        finally:
            self._offer = None
            atexit.unregister(self.close)

    def _write(self) -> None:
        assert self._store is not None
        assert self._offer is not None
        deadline = time.monotonic() + _MAX_WAIT_FOR_IDLE

        def pause() -> None:
            while True:
                if self._cancelled.is_set():
                    raise CancelledError("the model was closed")
                if not self._busy() or time.monotonic() > deadline:
                    return
                self._cancelled.wait(_LOOK_AGAIN)

        pause()
        self.status = "writing"
        source = self._pinned or self._digest(
            [self._known_digest(i) or self._computed_digest(i, pause) for i in range(self._count)]
        )
        if source is None or not self._unchanged():
            self.status, self.problem = "failed", "the model file was written to"
            return
        layout, matrices, packed = self._offer
        # Another process may have been faster.
        if not self._store.has(source, layout):
            self._store.write(source, layout, matrices, packed, pause)
        self.status = "written"

    def _give_up(self, error: BaseException) -> None:
        import logging  # here, because hardly any start needs it

        self._offer = None
        self.status, self.problem = "failed", str(error)
        logging.getLogger("tektra").info("no packed copy of %s: %s", self._paths[0], error)

    # Whose copy it is

    @property
    def _count(self) -> int:
        return len(self._paths)

    def _worth_it(self, matrices: Sequence[PackedMatrix]) -> bool:
        return sum(matrix.num_bytes for matrix in matrices) >= self._min_bytes

    def _known_digest(self, index: int) -> str | None:
        return self._known.digest_of(self._paths[index].absolute(), self._statuses[index])

    def _computed_digest(self, index: int, pause: Callable[[], None]) -> str | None:
        """Reads a file; None where it is another one by now than was packed."""
        path = self._paths[index].absolute()
        with path.open("rb", buffering=0) as stream:
            before = fingerprint(os.fstat(stream.fileno()))
            if before != fingerprint(self._statuses[index]):
                return None
            digest = digest_of_stream(stream, lambda _: pause())
            if fingerprint(os.fstat(stream.fileno())) != before:
                return None
        self._known.remember(path, digest, before)
        return digest

    def _digest(self, digests: Sequence[str | None]) -> str | None:
        """One digest for all files of a model."""
        if None in digests:
            return None
        if len(digests) == 1 and not self._variant:
            return digests[0]
        import hashlib

        return hashlib.sha256(
            " ".join([*map(str, digests), self._variant]).strip().encode()
        ).hexdigest()

    def _unchanged(self) -> bool:
        """Whether the model's files are still those that were mapped, and nobody wrote to them."""
        with contextlib.suppress(OSError):
            now = [fingerprint(path.stat()) for path in self._paths]
            return now == [fingerprint(status) for status in self._statuses]
        return False


def _lower_priority() -> None:
    """Lets every other thread go first, where the system knows priorities of threads."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
