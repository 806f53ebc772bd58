"""A file mapped for reading, and whether it is still what it was when it was mapped.

It does not know what is in the file.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import stat
import sys
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, MemoryLimitError, ModelNotFoundError

__all__ = ["MappedFile"]

_REMEDY = "load it again, and let nothing write to it meanwhile"
# Linux; Python knows the first by its name only from 3.12 on, and not the last.
_READ_AHEAD = (14, 3, 22) if sys.platform == "linux" else ()  # huge pages, will need, populate
_LARGE_PAGE = 2 << 20
_LARGE_SHARE = 0.97
# Opening a pipe would wait for somebody to write into it.
_FLAGS = getattr(os, "O_NONBLOCK", 0)


class MappedFile:
    """A file, mapped read-only.

    Attributes:
        path: as it was given.
        status: of the file when it was opened.
        raw: uint8 [bytes], the whole file. The mapping lives as long as a view of it.
    """

    __slots__ = ("_mapping", "path", "raw", "status")

    def __init__(self, path: Path, mapping: mmap.mmap, status: os.stat_result) -> None:
        """Use `MappedFile.open`."""
        self.path = path
        self.raw: NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)
        self._mapping = mapping
        self.status = status

    @classmethod
    def open(cls, path: Path) -> Self:
        """Maps a regular file.

        Raises:
            ModelNotFoundError: it is not there.
            FormatError: it is empty, not a regular file, or cannot be read.
            MemoryLimitError: there is no address space left.
        """
        try:
            # Looked at before it is opened too: opening a device can do something.
            _check_regular(path, path.stat())
            with open(path, "rb", buffering=0, opener=_open) as file:
                status = os.fstat(file.fileno())
                _check_regular(path, status)
                if status.st_size == 0:
                    raise FormatError(f"{path.name} is empty", remedy="get the file anew")
                mapping = mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"there is no file {str(path)!r}") from error
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOMEM:
                raise MemoryLimitError(
                    f"there is not enough memory to map {str(path)!r}",
                    remedy="end other programs, or use a smaller model",
                ) from error
            reason = getattr(error, "strerror", None) or error
            raise FormatError(f"{str(path)!r} cannot be read: {reason}") from error
        return cls(path, mapping, status)

    def read_ahead(self) -> bool:
        """Brings all of the file into memory, in large pages where the system has it in those.

        Returns:
            Whether it is in large pages, or the system does not tell. Streaming through small ones
            spends a good part of the time in page walks.
        """
        for advice in _READ_AHEAD:
            with contextlib.suppress(OSError):  # file systems without large pages, old kernels
                self._mapping.madvise(advice)
        if self.raw.size < _LARGE_PAGE:
            return True
        try:
            # Of the whole process, whose other files are small beside a model.
            text = Path("/proc/self/smaps_rollup").read_bytes()
        except OSError:
            return True
        mapped = re.search(rb"^FilePmdMapped:\s+([0-9]+) kB", text, re.MULTILINE)
        return mapped is None or int(mapped[1]) * 1024 >= _LARGE_SHARE * self.raw.size

    def check_size(self) -> None:
        """Raises `FormatError` where the file was cut short: reading it would end the process."""
        if self._mapping.size() < self.raw.size:
            raise FormatError(
                f"{self.path.name} was cut short while it was open: it had {self.raw.size} bytes, "
                f"and has {self._mapping.size()}",
                remedy=_REMEDY,
            )

    def check_unchanged(self) -> None:
        """Raises `FormatError` where somebody wrote to the file, which may have been what was read.

        One that is gone, or is another one by now, counts as unchanged: what is mapped is the old.
        """
        self.check_size()
        try:
            now = self.path.stat()
        except OSError:
            return
        then = self.status
        same_file = (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
        if same_file and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise FormatError(
                f"{self.path.name} was written to while it was being read", remedy=_REMEDY
            )


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{str(path)!r} is not a file")
