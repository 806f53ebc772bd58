"""What this machine has: processor, cores, memory, and what the system lets this process use.

It reads what the operating system tells and guesses nothing: what is not known is None.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Machine", "describe_machine"]

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts about a machine; sizes in bytes.

    Attributes:
        processor: name of the processor.
        system: operating system, its version, and the architecture.
        cores_logical: all of the machine.
        cores_physical: physical cores that this process may run on.
        cores_quota: cores' worth of time that a control group allows; may be a fraction.
        cores_usable: cores that this process can keep busy: the threads that a model gets.
        memory_total: of the machine.
        memory_available: what this process can take without swapping, control groups included.
        memory_limit: what a control group allows.
        memory_used_of_limit: what the group has in use.
    """

    processor: str | None
    system: str
    cores_logical: int | None
    cores_physical: int
    cores_quota: float | None
    cores_usable: int
    memory_total: int | None
    memory_available: int | None
    memory_limit: int | None
    memory_used_of_limit: int | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine() -> Machine:
    """Looks at this machine. Takes a few milliseconds and never fails."""
    from tektra.engine.resources import (
        available_memory,
        cpu_quota,
        num_physical_cores,
        usable_cores,
    )

    limit, used = _memory_limit()
    return Machine(
        processor=_processor(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores_logical=os.cpu_count(),
        cores_physical=num_physical_cores(),
        cores_quota=cpu_quota(),
        cores_usable=usable_cores(),
        memory_total=_memory_total(),
        memory_available=_windows_memory("ullAvailPhys") or available_memory(),
        memory_limit=limit,
        memory_used_of_limit=used,
    )


def _processor() -> str | None:
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if match:
        return match[1].strip()
    return platform.processor() or platform.machine() or None


def _cgroup_folders() -> Iterator[Path]:
    """The folders of this process' control group (version 2) and of those round it."""
    match = re.search(r"^0::(/.*)$", _read("/proc/self/cgroup"), re.MULTILINE)
    parts = Path(match[1]).parts[1:] if match else ()
    for length in range(len(parts), -1, -1):
        yield _CGROUPS.joinpath(*parts[:length])


def _memory_limit() -> tuple[int | None, int | None]:
    """The smallest limit of a control group, and what that group uses."""
    files = [(folder / "memory.max", folder / "memory.current") for folder in _cgroup_folders()]
    version_1 = _CGROUPS / "memory"
    files.append((version_1 / "memory.limit_in_bytes", version_1 / "memory.usage_in_bytes"))
    limits = [(limit, current) for path, current in files if (limit := _read_int(path))]
    limit, current = min(limits, default=(_UNLIMITED, Path()))
    return (limit, _read_int(current)) if limit < _UNLIMITED else (None, None)


def _memory_total() -> int | None:
    if windows := _windows_memory("ullTotalPhys"):
        return windows
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _windows_memory(name: str) -> int | None:
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [
                ("dwLength", ctypes.c_ulong),
                ("dwMemoryLoad", ctypes.c_ulong),
                ("ullTotalPhys", ctypes.c_ulonglong),
                ("ullAvailPhys", ctypes.c_ulonglong),
                ("ullTotalPageFile", ctypes.c_ulonglong),
                ("ullAvailPageFile", ctypes.c_ulonglong),
                ("ullTotalVirtual", ctypes.c_ulonglong),
                ("ullAvailVirtual", ctypes.c_ulonglong),
                ("ullAvailExtendedVirtual", ctypes.c_ulonglong),
            ]

        status = Status(dwLength=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(getattr(status, name))
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_int(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else None
