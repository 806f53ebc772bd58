"""Python processes of their own for what may crash, hang or eat memory. Knows nothing of models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["limit_memory", "run_python", "sanitized"]


def sanitized() -> bool:
    """Whether this process runs under AddressSanitizer, as in ``make asan``."""
    return "asan" in os.environ.get("LD_PRELOAD", "")


def run_python(
    module: str, stdin: str = "", *, timeout: float | None = 60.0
) -> subprocess.CompletedProcess[str]:
    """Runs a module of the tests as a program, with the import path of this process."""
    # `make asan` runs without site-packages, so that the installed package stays out of the way.
    flags = ["-S"] if sys.flags.no_site else []
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(dict.fromkeys([*filter(None, sys.path), root]))
    return subprocess.run(
        [sys.executable, *flags, "-X", "faulthandler", "-m", module],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        cwd=root,
    )


def limit_memory(headroom: int) -> None:
    """Lets this process take so many more bytes of address space; Linux only.

    AddressSanitizer has terabytes of its own, so there is no limit under it.
    """
    if sys.platform != "linux" or sanitized():
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
