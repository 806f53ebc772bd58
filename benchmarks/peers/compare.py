"""Tektra and other engines on the same file, the same work and the same threads, side by side.

All stay loaded and take turns, so that a machine that changes its speed changes it for each; the
figure to quote is the median of the ratios of neighbouring runs. The engines are installed into
environments of their own on first use (environments.py), which takes some minutes.

    python -m benchmarks.peers.compare MODEL.gguf [--threads 2] [--rounds 7] [--isa avx2]
                                       [--work "prefill 512, decode 64 @2048, decode 32 @64 x16"]
                                       [--mistralrs ROUNDS] [--start ROUNDS] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import add_common_options, report, write_report
from benchmarks.peers.environments import llama_cpp_python, mistralrs_python

from tektra.backends.cpu import CpuBackend

HERE = Path(__file__).resolve().parent
WORK = (
    "prefill 512, prefill 2048, decode 128, decode 64 @512, decode 64 @2048, "
    "decode 32 @64 x4, decode 32 @64 x16"
)
PROMPT = "Are dogs real? Answer in one sentence."


@dataclass(frozen=True, slots=True)
class Work:
    """``prefill 512``, ``decode 64 @2048`` (tokens in the cache before) or ``decode 32 @64 x16``
    (so many sequences in each step)."""

    kind: str
    count: int
    depth: int = 0
    sequences: int = 1

    @classmethod
    def parse(cls, text: str) -> Work:
        found = re.fullmatch(r"(prefill|decode) (\d+)(?: @(\d+))?(?: x(\d+))?", text.strip())
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a piece of work")
        kind, count, depth, sequences = found.groups()
        return cls(kind, int(count), int(depth or 0), int(sequences or 1))

    def __str__(self) -> str:
        depth = f" @{self.depth}" if self.depth else ""
        return f"{self.kind} {self.count}{depth}" + (
            f" x{self.sequences}" if self.sequences > 1 else ""
        )

    @property
    def line(self) -> str:
        """As the workers want it."""
        return f"{self.kind} {self.count} {self.depth} {self.sequences}"

    @property
    def context(self) -> int:
        """Tokens in all caches at the end."""
        return (self.depth + self.count) * self.sequences


class Worker:
    """One engine in a process of its own, which answers each line of work with tokens/s."""

    def __init__(
        self, python: Path | str, script: str, arguments: Sequence[str], **environment: str
    ) -> None:
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        self.version = self._line()

    def run(self, work: Work) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(work.line + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{self.process.args!r} stopped without an answer")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", default=WORK, help="pieces of work, with commas between them")
    parser.add_argument(
        "--mistralrs",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="rounds with mistral.rs, which takes its time (0)",
    )
    parser.add_argument(
        "--start",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="starts of a process until its first streamed token (0)",
    )
    add_common_options(parser)
    options = parser.parse_args()
    works = [Work.parse(text) for text in options.work.split(",") if text.strip()]

    context = max([work.context for work in works] + [512])
    arguments = [str(options.model), str(options.threads), str(-(-context // 256) * 256)]
    forced = {"TEKTRA_ISA": options.isa} if options.isa else {}
    peer = llama_cpp_python(options.isa)
    print(
        f"{options.model.name}, {options.threads} threads, {options.isa or 'best'} instructions, "
        f"medians of {options.rounds}, tokens/s"
    )
    results: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    if works:
        ours = Worker(sys.executable, "worker_tektra.py", arguments, **forced)
        engines = {"llama_cpp": (Worker(peer, "worker_llama_cpp.py", arguments), options.rounds)}
        if options.mistralrs:
            other = Worker(mistralrs_python(), "worker_mistralrs.py", arguments)
            engines["mistralrs"] = (other, options.mistralrs)
        versions = {"tektra": ours.version, **{n: w.version for n, (w, _) in engines.items()}}
        for work in works:
            results.append(compare(work, ours, engines))
            show(results[-1], "")
        for worker in (ours, *(w for w, _ in engines.values())):
            worker.close()
    if options.start:
        results.append(compare_starts(options.model, options.threads, options.start, forced, peer))
        show(results[-1], " s")
    contents = report(
        "peers",
        options.threads,
        results,
        model=options.model.name,
        isa=CpuBackend(isa=options.isa or None).isa,
        versions=versions,
    )
    write_report(options.json, contents)


def compare(work: Work, ours: Worker, engines: Mapping[str, tuple[Worker, int]]) -> dict[str, Any]:
    """Rates of each engine: pairs with ours, the first of which is left out."""
    result: dict[str, Any] = {"test": str(work)}
    for name, (worker, rounds) in engines.items():
        pairs: list[tuple[float, float]] = []
        for turn in range(rounds + 1):
            mine, theirs = ours.run(work), worker.run(work)
            if not theirs:
                break  # cannot do it
            if turn:
                pairs.append((mine, theirs))
        if pairs:
            result.setdefault("tektra", statistics.median(a for a, _ in pairs))
            result[name] = statistics.median(b for _, b in pairs)
            result[f"ratio_{name}"] = statistics.median(a / b for a, b in pairs)
            result[f"pairs_{name}"] = pairs
    return result


def compare_starts(
    model: Path, threads: int, rounds: int, forced: Mapping[str, str], peer: Path
) -> dict[str, Any]:
    """Seconds from the start of a process to its first streamed token; the ratio is theirs/ours."""
    arguments = [str(model), str(threads), PROMPT]
    commands = (
        [sys.executable, str(HERE / "start_tektra.py"), *arguments],
        [str(peer), str(HERE / "start_llama_cpp.py"), *arguments],
    )
    pairs = []
    for turn in range(rounds + 1):
        mine, theirs = (start(command, forced) for command in commands)
        if turn:
            pairs.append((mine, theirs))
    return {
        "test": "start to first token",
        "tektra": statistics.median(a for a, _ in pairs),
        "llama_cpp": statistics.median(b for _, b in pairs),
        "ratio_llama_cpp": statistics.median(b / a for a, b in pairs),
        "pairs_llama_cpp": pairs,
    }


def start(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until a program prints something."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
    if not first:
        raise SystemExit(f"{command!r} said nothing")
    return seconds


def show(result: Mapping[str, Any], unit: str) -> None:
    """A line of the table."""
    line = f"{result['test']:<22}{result.get('tektra', 0.0):>10.4g}{unit}"
    for name in ("llama_cpp", "mistralrs"):
        if name in result:
            ratio = result[f"ratio_{name}"]
            line += f"   {name} {result[name]:>8.4g}{unit} {ratio:>6.2f}x"
    print(line, flush=True)


if __name__ == "__main__":
    main()
