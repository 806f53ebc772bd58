"""Damages a model file in place, byte by byte, and loads it each time, in processes that may die.

A worker (this file, run as a program) patches its own copy of the file, loads it on the CPU
backend, lets it answer, closes it and says how that ended. It runs under a memory limit and a
watchdog. It does not know what is in the file, nor which outcome is right for which damage.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeAlias

from tests.robustness.processes import limit_memory, run_python, sanitized

from tektra.formats.gguf import GGUFFile

__all__ = [
    "LOADED",
    "Damage",
    "Outcomes",
    "byte_variants",
    "edges",
    "header_bytes",
    "headroom_mib",
    "run_trials",
]

Damage: TypeAlias = tuple[int, int]
"""(offset, new byte), or (offset, -1): the file ends there."""

LOADED = "loaded"
CUT = -1
SECONDS = 40.0 if sanitized() else 5.0
"""A trial that takes longer counts as hanging; they take milliseconds."""
MIB = 2**20


def headroom_mib(path: Path) -> int:
    """Memory that trials may take beyond what the process had after loading the sound file.

    The file itself is mapped, packed, and (a string or an array of it) decoded, but that is all.
    AddressSanitizer keeps what is freed, up to a bound of its own.
    """
    return (1024 if sanitized() else 256) + 4 * path.stat().st_size // MIB


@dataclass(slots=True)
class Outcomes:
    """How trials ended.

    Attributes:
        counts: how many loaded and answered, under `LOADED`, and how many ended in each class of
            typed error.
        faults: what must not be, one text each: errors without a type, crashes, trials that hang.
        growth_mib: most memory that a worker took beyond what the sound file takes.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    growth_mib: float = 0.0

    def add(self, other: Outcomes) -> None:
        self.counts += other.counts
        self.faults += other.faults
        self.growth_mib = max(self.growth_mib, other.growth_mib)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.most_common())
        return f"{self.counts.total()} trials: {counts}; memory +{self.growth_mib:.0f} MiB"


def byte_variants(data: bytes, places: Iterable[int]) -> Iterator[Damage]:
    """Each byte with each of its bits flipped, as 0x00 and as 0xFF."""
    for at in places:
        byte = data[at]
        for other in sorted({*(byte ^ (1 << bit) for bit in range(8)), 0x00, 0xFF} - {byte}):
            yield at, other


def header_bytes(path: Path) -> int:
    """How many bytes come before the first tensor."""
    with GGUFFile.open(path) as file:
        return min(info.offset for info in file.tensors.values())


def edges(path: Path) -> list[int]:
    """Sizes that cut a file at the start or the end of a tensor, or one byte beside it.

    The last of them is the size of the file.
    """
    size = path.stat().st_size
    with GGUFFile.open(path) as file:
        ends = {at for t in file.tensors.values() for at in (t.offset, t.offset + t.nbytes)}
    around = {at + d for at in ends for d in (-1, 0, 1)} | {size - 1, size}
    return sorted(at for at in around if at <= size)


def run_trials(
    path: Path, damages: Sequence[Damage], scratch: Path, *, workers: int = 1
) -> Outcomes:
    """Tries each damage on a copy of the file, shared out among worker processes."""
    shares = [damages[i::workers] for i in range(workers)]
    copies = [scratch / f"damaged{i}.gguf" for i in range(workers)]
    for copy in copies:
        shutil.copyfile(path, copy)
    total = Outcomes()
    with ThreadPoolExecutor(workers) as pool:
        for outcomes in pool.map(_run_share, copies, shares):
            total.add(outcomes)
    for copy in copies:
        copy.unlink()
    return total


def _run_share(copy: Path, damages: Sequence[Damage]) -> Outcomes:
    """Runs a worker over the damages; a new one from the next on whenever one dies."""
    outcomes, first, pristine = Outcomes(), 0, copy.read_bytes()
    while first < len(damages):
        copy.write_bytes(pristine)
        orders = json.dumps({"path": str(copy), "damages": damages[first:]})
        result = run_python("tests.robustness.trials", orders, timeout=None)
        done = 0
        for line in result.stdout.splitlines():
            name, _, text = line.partition("\t")
            if name == "growth":
                outcomes.growth_mib = max(outcomes.growth_mib, float(text))
            elif name == "fault":
                done += 1
                outcomes.faults.append(f"{damages[first + done - 1]}: {json.loads(text)}")
            else:
                done += 1
                outcomes.counts[name] += 1
        first += done
        if result.returncode != 0:
            at = damages[first] if first < len(damages) else "the end"
            outcomes.faults.append(
                f"{at}: the process ended with {result.returncode}\n{result.stderr[-4000:]}"
            )
            first += 1
        if len(outcomes.faults) > 20:
            break
    return outcomes


# The worker

_THREAD_ERRORS: list[str] = []


def _main() -> None:
    orders = json.load(sys.stdin)
    # An error on a thread of the engine must not pass unseen.
    threading.excepthook = lambda args: _THREAD_ERRORS.append(repr(args.exc_value))
    path = Path(orders["path"])
    pristine = path.read_bytes()
    first = _outcome(path)
    if first != LOADED:
        raise SystemExit(f"the sound file does not load: {first}")
    before = _resident_peak()
    limit_memory(headroom_mib(path) * MIB)
    with path.open("r+b", buffering=0) as file:
        for offset, byte in orders["damages"]:
            _damage(file, offset, byte)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            print(_outcome(path), flush=True)
            faulthandler.cancel_dump_traceback_later()
            _heal(file, offset, byte, pristine)
    print(f"growth\t{(_resident_peak() - before) / MIB}", flush=True)


def _damage(file: IO[bytes], offset: int, byte: int) -> None:
    if byte == CUT:
        file.truncate(offset)
    else:
        os.pwrite(file.fileno(), bytes([byte]), offset)


def _heal(file: IO[bytes], offset: int, byte: int, pristine: bytes) -> None:
    end = len(pristine) if byte == CUT else offset + 1
    os.pwrite(file.fileno(), pristine[offset:end], offset)


def _outcome(path: Path) -> str:
    """Loads and lets answer; a line that says how that went."""
    from tektra import LLM
    from tektra.errors import TektraError

    try:
        # The largest file is the real one, and packing it takes a twentieth of a second.
        with LLM(path, device="cpu", threads=1, context=128, max_batch=1, max_rows=32) as llm:
            answer = llm.generate("hello <s>", max_tokens=2)
            assert 1 <= answer.completion_tokens <= 2
            llm.chat([{"role": "user", "content": "h"}], max_tokens=2)
    except TektraError as error:
        # What a terminal or a log is given must be text: no lone surrogates from the file.
        if not str(error).strip() or not str(error).isprintable():
            return f"fault\t{json.dumps(f'{type(error).__name__}: {error!r}')}"
        return type(error).__name__
    except BaseException:
        return f"fault\t{json.dumps(traceback.format_exc()[-3000:])}"
    if _THREAD_ERRORS:
        return f"fault\t{json.dumps(f'on a thread: {_THREAD_ERRORS.pop()}')}"
    return LOADED


def _resident_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    _main()
