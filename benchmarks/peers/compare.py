"""Tektra and llama.cpp on the same file, the same work and the same threads, side by side.

Both stay loaded and take turns, so that a machine that changes its speed changes it for both; the
figure to quote is the median of the ratios of neighbouring runs. llama.cpp is built from source
into an environment of its own (build/peers) on first use, which takes some minutes.

    python benchmarks/peers/compare.py MODEL.gguf [--threads 2] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

PEER = "llama-cpp-python==0.3.36"
WORK = ("prefill 512 0", "decode 128 0", "decode 64 512")
HERE = Path(__file__).parent


def peer_python() -> Path:
    """Python of the environment with llama.cpp, made if it is not there."""
    folder = HERE.parent.parent / "build" / "peers"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"building {PEER} in {folder}, once", file=sys.stderr)
        venv.create(folder, with_pip=True)
        environment = dict(os.environ)
        if "amx_int8" in cpu_info():
            # built for AMX, this release dies with a segmentation fault on virtual machines that
            # do not let it use the tiles; without, it has all of AVX-512 and its own repacking
            environment["CMAKE_ARGS"] = (
                "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON "
                "-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON"
            )
        install = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir", PEER]
        subprocess.run(install, check=True, env=environment)
    return python


class Worker:
    """One engine in a process of its own, which answers each line of work with tokens/s."""

    def __init__(self, python: Path | str, script: str, arguments: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._line()

    def run(self, work: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{self.process.args!r} stopped without an answer")
        return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    arguments = [str(options.model), str(options.threads), "1024"]
    ours = Worker(sys.executable, "worker_tektra.py", arguments)
    theirs = Worker(peer_python(), "worker_llama_cpp.py", arguments)

    results = []
    print(f"{options.model.name}, {options.threads} threads, median of {options.rounds}, tokens/s")
    print(f"{'work':<16}{'tektra':>10}{'llama.cpp':>12}{'ratio':>9}")
    for work in WORK:
        pairs = [(ours.run(work), theirs.run(work)) for _ in range(options.rounds + 1)][1:]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        kind, count, depth = work.split()
        name = f"{kind} {count}" + (f" @{depth}" if depth != "0" else "")
        print(f"{name:<16}{mine:>10.1f}{other:>12.1f}{ratio:>8.2f}x", flush=True)
        results.append(
            {"test": name, "tektra": mine, "llama_cpp": other, "ratio": ratio, "pairs": pairs}
        )
    if options.json is not None:
        report = {
            "model": options.model.name,
            "threads": options.threads,
            "machine": {"processor": processor(), "system": platform.platform()},
            "versions": {"tektra": ours.version, "llama-cpp-python": theirs.version},
            "commit": commit(),
            "results": results,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


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
    """The commit that is measured, with a plus where the tree has changes."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


if __name__ == "__main__":
    main()
