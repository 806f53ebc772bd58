"""What the machine lets this process use: cores and memory.

Reads what the operating system and its control groups say. It does not decide what to do with it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory", "cpu_quota", "num_physical_cores", "usable_cores"]

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Physical cores that this process can keep busy, at least 1.

    Hyper-threads of one core count once, cores outside the process's affinity not at all, and a
    control group's quota of processor time bounds the number.
    """
    quota = cpu_quota()
    cores = num_physical_cores()
    return cores if quota is None else max(1, min(cores, math.floor(quota + 0.01)))


def num_physical_cores(sysfs: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores on which this process may run."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows do not tell
        return max(1, os.cpu_count() or 1)
    siblings = "cpu{}/topology/thread_siblings_list"
    return max(1, len({_text(sysfs / siblings.format(cpu)) or str(cpu) for cpu in allowed}))


def cpu_quota() -> float | None:
    """Processors' worth of time that the control group grants; None without a limit."""
    quotas = []
    for folder in _groups("cpu"):
        if match := re.fullmatch(r"(\d+) (\d+)", _text(folder / "cpu.max")):
            quotas.append(int(match[1]) / max(1, int(match[2])))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, in the control group too; None where unknown."""
    candidates = []
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE):
        candidates.append(int(match[1]) * 1024)
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        # Other systems count free pages too strictly: three quarters of all is nearer the truth.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        candidates.append(total * 3 // 4)
    for folder in _groups("memory"):
        for limit_name, used_name, cache_key in (
            ("memory.max", "memory.current", "file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                stat = _text(folder / "memory.stat")
                cache = re.search(rf"^{cache_key} (\d+)$", stat, re.MULTILINE)
                # Cached file pages are counted as used, but are given back when needed.
                candidates.append(max(0, limit - used + (int(cache[1]) if cache else 0)))
    return min(candidates, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those round it, of either version."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUP / controller if controllers else _CGROUP
        folder = root / path.lstrip("/")
        # In a container the path may be the host's: the root is then what there is to see.
        for candidate in (folder, *folder.parents):
            if candidate.is_relative_to(root):
                yield candidate


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"\d{1,19}", text) else None
