"""What the scripts in this folder share: the machine, the commit, tables and result files.

It knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "ROOT",
    "add_common_options",
    "commit",
    "cpu_info",
    "numbers",
    "processor",
    "render_table",
    "report",
    "write_report",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def cpu_info() -> str:
    """What Linux says of the processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


def processor() -> str:
    """Name of the processor."""
    for line in cpu_info().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def commit() -> str:
    """The commit that is measured, with a plus where the tree has changes of its own.

    Result files do not count: writing one is not a change of what was measured.
    """
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs"]
    dirty = subprocess.run(changed, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def numbers(text: str) -> list[int]:
    """``"1,4,16"`` as a list; for argparse."""
    return [int(part) for part in text.split(",")]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """``--threads``, ``--isa`` and ``--json``, which every script has."""
    parser.add_argument("--threads", type=int, default=2, help="threads that compute (2)")
    parser.add_argument("--isa", default="", help="instruction set; the best there is where empty")
    parser.add_argument("--json", type=Path, help="file for the results")


def report(question: str, threads: int, results: Any, **more: Any) -> dict[str, Any]:
    """A result file's contents: what was asked, where, at which commit, and the answers."""
    return {
        "question": question,
        "machine": {"processor": processor(), "system": platform.platform()},
        "commit": commit(),
        "threads": threads,
        **more,
        "results": results,
    }


def write_report(path: Path | None, contents: dict[str, Any]) -> None:
    """Writes a result file, where one is wanted."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents, indent=1) + "\n")


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left and numbers to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
