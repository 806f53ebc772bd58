"""Checks a file against its digest, and remembers which files were found to be right.

A file whose size, times and inode are those of an earlier check is not read again. It knows
nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path
from typing import Any

from tektra.errors import FormatError, IntegrityError
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent

__all__ = ["VerifiedFiles", "digest_of_stream", "fingerprint", "verify_file"]

_CHUNK_BYTES = 1 << 22
_MAX_ENTRIES = 1024
_MAX_CACHE_BYTES = 1 << 22
_DIGEST = re.compile("[0-9a-f]{64}")


class VerifiedFiles:
    """Which files had which digest when they were last read, kept in a JSON file.

    The file is replaced as a whole, so that a reader finds an old or a new one. One that cannot be
    read, or makes no sense, counts as empty: the worst that follows is a check too many.

    Args:
        path: the JSON file; its folder is made when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def knows(self, path: Path, sha256: str) -> bool:
        """Whether the file had this digest and has not changed since."""
        return self.digest_of(path, path.stat()) == sha256

    def digest_of(self, path: Path, status: os.stat_result) -> str | None:
        """The digest that the file had when it was read, None where it may have changed since.

        Args:
            path: of the file.
            status: of what is there now, or of what was opened under that path.
        """
        entry = self._entries().get(str(path))
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            return None
        return digest if entry == {"sha256": digest, **fingerprint(status)} else None

    def remember(self, path: Path, sha256: str, fingerprint: dict[str, int]) -> None:
        """Notes that the file had this digest when its fingerprint was this one."""
        entries = self._entries()
        entries.pop(str(path), None)
        entries[str(path)] = {"sha256": sha256, **fingerprint}
        for oldest in list(entries)[: max(0, len(entries) - _MAX_ENTRIES)]:
            del entries[oldest]
        # Where nothing can be written, in a read-only home directory, models load all the same.
        with contextlib.suppress(OSError):
            self._write(json.dumps({"version": 1, "files": entries}, indent=1))

    def _entries(self) -> dict[str, Any]:
        try:
            if self._path.stat().st_size > _MAX_CACHE_BYTES:
                return {}
            data = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        files = data.get("files") if isinstance(data, dict) and data.get("version") == 1 else None
        return files if isinstance(files, dict) else {}

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".verified-", dir=self._path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def verify_file(
    path: Path,
    sha256: str,
    *,
    known: VerifiedFiles,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> None:
    """Reads a file and compares its SHA-256 with the one it must have.

    Reports the stage ``"verify"`` in bytes.

    Raises:
        IntegrityError: the digest is another one.
        FormatError: the file cannot be read.
        CancelledError: ``cancel`` was set.
    """
    sha256 = sha256.lower()
    try:
        # Taken before reading: a change in between then makes the next load read it again.
        status = path.stat()
        total = status.st_size
        if known.knows(path, sha256):
            progress(ProgressEvent("verify", path.name, total, total, "bytes"))
            return

        def report(done: int) -> None:
            cancel.check()
            progress(ProgressEvent("verify", path.name, done, total, "bytes"))

        with path.open("rb", buffering=0) as file:
            found = digest_of_stream(file, report)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != sha256:
        raise IntegrityError(
            f"{path} has the SHA-256 digest {found}, but {sha256} was promised",
            remedy="the file is damaged or not the one it claims to be: install it again",
        )
    known.remember(path, sha256, fingerprint(status))


def digest_of_stream(file: RawIOBase, report: Callable[[int], None]) -> str:
    """SHA-256 of what is left of a file, 64 hexadecimal digits.

    Args:
        file: open for reading, without a buffer.
        report: called with the bytes read so far, after each few MiB; what it raises ends this.
    """
    import hashlib  # here, because most loads find that the file is known

    digest, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
        done += count
        report(done)
    return digest.hexdigest()


def fingerprint(status: os.stat_result) -> dict[str, int]:
    """What changes when somebody writes to a file or puts another in its place."""
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }
