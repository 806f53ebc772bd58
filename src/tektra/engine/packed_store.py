"""The folder of packed copies: found again, written, and thrown out when room is short.

Everything in it can be made again, so it may be deleted at any moment, by Tektra or by a person. A
copy appears under its name once its bytes were read back; whatever is not known from then is not
used. It knows nothing of models, backends or threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tektra.config import ensure_private_directory
from tektra.engine.verify import VerifiedFiles, digest_of_stream, fingerprint
from tektra.errors import FormatError, IntegrityError, MemoryLimitError, ModelNotFoundError
from tektra.formats.packed import PackedFile, PackedMatrix, packed_header, packed_parts

__all__ = ["PackedStore", "StoredCopy"]

_ENDING = ".packed.safetensors"
_MARK = ".used"
_NAME = re.compile(r"(?P<source>[0-9a-f]{64})-(?P<layout>[a-z0-9_-]{1,64})" + re.escape(_ENDING))
_UNFINISHED = ".writing-"
# Large enough for the file system to take whole large pages, so that the mapping has them.
_CHUNK_BYTES = 1 << 22
# Of the disk: what a copy must leave free.
_RESERVE_BYTES = 1 << 30
_RESERVE_SHARE = 20


@dataclass(frozen=True, slots=True)
class StoredCopy:
    """A packed copy in the store.

    Attributes:
        path: of the file.
        source: SHA-256 digest of the model file.
        layout: name of the layout.
        num_bytes: size of the file.
        used: when it was last written or opened, seconds since the epoch.
    """

    path: Path
    source: str
    layout: str
    num_bytes: int
    used: float


class PackedStore:
    """Packed copies in a folder.

    Any number of processes may use one at the same time.

    Args:
        folder: made when it is first needed.
        limit: most bytes of all copies together.
        known: remembers which copies were read back and found to be right.
        free_bytes: free and total bytes of the disk with a folder; for tests.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        known: VerifiedFiles,
        free_bytes: Callable[[Path], tuple[int, int]] | None = None,
    ) -> None:
        self.folder = folder
        self.limit = limit
        self._known = known
        self._free_bytes = _free_bytes if free_bytes is None else free_bytes

    def path_of(self, source: str, layout: str) -> Path:
        """Where the copy of a model in a layout is, or would be."""
        name = f"{source}-{layout}{_ENDING}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a packed copy")
        return self.folder / name

    def copies(self) -> list[StoredCopy]:
        """All finished copies, the one that was used last at the end."""
        found = []
        for path in self._files():
            match = _NAME.fullmatch(path.name)
            with contextlib.suppress(OSError):  # gone meanwhile
                if match is not None:
                    status = path.stat()
                    used = max(status.st_mtime, _mark_of(path))
                    source, layout = match["source"], match["layout"]
                    found.append(StoredCopy(path, source, layout, status.st_size, used))
        return sorted(found, key=lambda copy: (copy.used, copy.path.name))

    def open(self, source: str, layout: str, matrices: Sequence[PackedMatrix]) -> PackedFile | None:
        """The copy of a model, mapped; None where there is none, or it is not to be trusted."""
        path = self.path_of(source, layout)
        try:
            file = PackedFile.open(path, source, layout, matrices)
        except ModelNotFoundError:
            return None
        except (FormatError, MemoryLimitError) as error:
            _log(f"the packed copy {path} is not used: {error}")
            return None
        # Of what is mapped, not of what lies there by now.
        if self._known.digest_of(path, file.status) is None:
            _log(f"the packed copy {path} is not used: it is not as it was written")
            return None
        self._mark(path)
        return file

    def write(
        self,
        source: str,
        layout: str,
        matrices: Sequence[PackedMatrix],
        packed: Mapping[str, NDArray[np.uint8]],
        pause: Callable[[], None],
    ) -> Path:
        """Writes a copy, reads it back, and gives it its name. Another one of that name goes.

        Args:
            source, layout, matrices: as in `packed_header`.
            packed: bytes of each matrix by name.
            pause: called after each few MiB; what it raises ends the writing.

        Raises:
            OSError: it cannot be written, or there is no room for it.
            IntegrityError: what is read back is not what was written.
        """
        path = self.path_of(source, layout)
        header = packed_header(source, layout, matrices)
        ensure_private_directory(self.folder)
        self._make_room(path, len(header) + sum(matrix.num_bytes for matrix in matrices))
        handle, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self.folder)
        try:
            with os.fdopen(handle, "w+b", buffering=0) as file:
                _lock(file)
                digest = _write(file, packed_parts(header, matrices, packed), pause)
                os.fsync(file.fileno())
                file.seek(0)
                if digest_of_stream(file, lambda _: pause()) != digest:
                    raise IntegrityError(
                        f"{name} is not as it was written", remedy="check the disk"
                    )
                written = os.fstat(file.fileno())
            os.replace(name, path)
            _sync_folder(self.folder)
            # Renaming changes the time of the last change; nothing else may have changed.
            status = path.stat()
            if (status.st_ino, status.st_mtime_ns, status.st_size) == (
                written.st_ino,
                written.st_mtime_ns,
                written.st_size,
            ):
                self._known.remember(path, digest, fingerprint(status))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        self._mark(path)
        return path

    def has(self, source: str, layout: str) -> bool:
        """Whether a copy is there that was found to be right and has not changed since."""
        path = self.path_of(source, layout)
        try:
            return self._known.digest_of(path, path.stat()) is not None
        except OSError:
            return False

    def _make_room(self, path: Path, wanted: int) -> None:
        """Throws out what was not used for longest; OSError where that does not help."""
        if wanted > self.limit:
            raise OSError(
                errno.ENOSPC,
                f"a packed copy would take {wanted} bytes, and all may take {self.limit} together",
            )
        self._remove_unfinished()
        others = [copy for copy in self.copies() if copy.path != path]
        held = sum(copy.num_bytes for copy in others)
        free, total = self._free_bytes(self.folder)
        reserve = max(_RESERVE_BYTES, total // _RESERVE_SHARE)
        if free + held < wanted + reserve:
            raise OSError(
                errno.ENOSPC,
                f"a packed copy takes {wanted} bytes, and the disk with {self.folder} has {free} "
                f"free, of which {reserve} are left alone",
            )
        for copy in others:
            if held + wanted <= self.limit and free >= wanted + reserve:
                return
            self.remove(copy.path)
            held -= copy.num_bytes
            free += copy.num_bytes

    def remove(self, path: Path) -> None:
        """Deletes a copy. Whoever has it mapped keeps it; where that cannot be, it stays."""
        for name in (path.name + _MARK, path.name):
            with contextlib.suppress(OSError):
                path.with_name(name).unlink()

    def _remove_unfinished(self) -> None:
        """Deletes what writers that are no more have left."""
        for path in self._files():
            if path.name.startswith(_UNFINISHED):
                with contextlib.suppress(OSError), path.open("r+b") as file:
                    # A moment passes between making the file and locking it.
                    if time.time() - os.fstat(file.fileno()).st_mtime > 60 and _lock(file):
                        path.unlink()

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except OSError:
            return []

    def _mark(self, path: Path) -> None:
        """Notes that a copy was used: in a file beside it, whose own times mean something else."""
        with contextlib.suppress(OSError):
            path.with_name(path.name + _MARK).touch(mode=0o600)


def _mark_of(path: Path) -> float:
    """When a copy was opened last, as far as is known."""
    try:
        return path.with_name(path.name + _MARK).stat().st_mtime
    except OSError:
        return 0.0


def _write(
    file: IO[bytes], parts: Iterator[bytes | NDArray[np.uint8]], pause: Callable[[], None]
) -> str:
    """Writes all parts in chunks of one size; returns the SHA-256 digest of them."""
    import hashlib

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    filled = 0

    def flush() -> None:
        pause()
        digest.update(buffer[:filled])
        done = 0
        while done < filled:
            done += file.write(buffer[done:filled])

    for part in parts:
        left = memoryview(part.data if isinstance(part, np.ndarray) else part)
        while left:
            count = min(len(left), _CHUNK_BYTES - filled)
            buffer[filled : filled + count] = left[:count]
            left = left[count:]
            filled += count
            if filled == _CHUNK_BYTES:
                flush()
                filled = 0
    flush()
    return digest.hexdigest()


def _lock(file: IO[bytes]) -> bool:
    """Takes the file for this process, until it is closed. False where another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows: nobody can delete a file that is open
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _free_bytes(folder: Path) -> tuple[int, int]:
    import shutil

    usage = shutil.disk_usage(folder)
    return usage.free, usage.total


def _log(message: str) -> None:
    import logging  # here, because hardly any start needs it

    logging.getLogger("tektra").info(message)
