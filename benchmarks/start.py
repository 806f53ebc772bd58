"""From the start of the process to the first piece of the answer: the first start, and the second.

Each round starts every variant once, so that a machine that changes its speed changes it for all:
with an empty cache (first), with what that has left (second), with packed copies switched off
(unpacked), and llama.cpp through llama-cpp-python, which loads the same file and answers the same
message. Bytecode is compiled in all of them, as it is from a program's second start on.

    python -m benchmarks.start [MODEL] [--threads 2] [--rounds 9] [--peer PYTHON] [--json FILE]

``--peer auto`` builds the environment of benchmarks/peers where it is missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import add_common_options, report, write_report
from benchmarks.peers.environments import llama_cpp_python

PROMPT = "Are dogs real? Answer in one sentence."
# A child reports these moments, in seconds of the clock that its parent has too.
PARTS = ("interpreter", "imports", "load", "prompt and first token")
CHILD = """
import sys, time
marks = [time.time()]
import tektra.cli.main, tektra.cli.answer
from tektra.backends.select import select_backend
from tektra.llm import LLM
marks.append(time.time())
llm = LLM(sys.argv[1], device=select_backend(), threads=int(sys.argv[2]), max_batch=1)
marks.append(time.time())
for chunk in llm.chat([{"role": "user", "content": sys.argv[3]}], stream=True, max_tokens=1):
    print(chunk.text, flush=True)
    break
marks.append(time.time())
print(*marks, file=sys.stderr)
llm.wait_packed_copy(60)
"""
PEER = """
import sys
from llama_cpp import Llama
llm = Llama(sys.argv[1], n_ctx=4096, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]),
            verbose=False)
messages = [{"role": "user", "content": sys.argv[3]}]
for chunk in llm.create_chat_completion(messages, stream=True, max_tokens=1):
    text = chunk["choices"][0]["delta"].get("content")
    if text:
        print(text, flush=True)
        break
"""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a program.

    Attributes:
        first: seconds to the first byte of its output.
        whole: seconds to its end.
        processor: seconds of processor time, of all its threads.
        peak: most bytes of memory that it had resident, mapped files included.
    """

    first: float
    whole: float
    processor: float
    peak: int


def start(command: Sequence[str], environment: dict[str, str]) -> Start:
    """Starts a program and waits for it; it must succeed and write something."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    with process.stdout as output:
        byte = output.read(1)
        first = time.perf_counter() - begin
        output.read()
    # Not `wait`, which does not tell what the process has used.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not byte:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return Start(
        first=first,
        whole=time.perf_counter() - begin,
        processor=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * unit,
    )


def parts_of(model: str, threads: int, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each part of one start, measured by a program that does what `tektra run` does."""
    begin = time.time()
    command = [sys.executable, "-c", CHILD, model, str(threads), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    moments = [begin, *map(float, done.stderr.split())]
    return {
        part: after - before
        for part, before, after in zip(PARTS, moments[:-1], moments[1:], strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2:135m")
    add_common_options(parser)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", help="Python with llama-cpp-python, or auto; default: none")
    options = parser.parse_args()

    base = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if options.isa:
        base["TEKTRA_ISA"] = options.isa
    tektra = [
        *(sys.executable, "-c", "from tektra.cli.main import main; main()", "run"),
        *(options.model, PROMPT, "--threads", str(options.threads), "--max-tokens", "1"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        warm = {**base, "TEKTRA_CACHE_DIR": str(Path(folder, "warm"))}
        off = {**warm, "TEKTRA_PACKED_CACHE": "off"}
        variants: dict[str, tuple[list[str], dict[str, str]]] = {
            "second": (tektra, warm),
            "unpacked": (tektra, off),
        }
        if options.peer is not None:
            python = str(llama_cpp_python("")) if options.peer == "auto" else options.peer
            path = str(file_of(options.model))
            peer = [python, "-c", PEER, path, str(options.threads), PROMPT]
            variants["llama.cpp"] = (peer, base)
        starts: dict[str, list[Start]] = {"first": [], **{name: [] for name in variants}}
        parts: list[dict[str, float]] = []
        parts_of(options.model, options.threads, warm)  # leaves bytecode and the packed copy
        for command, environment in variants.values():
            start(command, environment)
        for number in range(options.rounds):
            cold = {**base, "TEKTRA_CACHE_DIR": str(Path(folder, f"cold-{number}"))}
            starts["first"].append(start(tektra, cold))
            for name, (command, environment) in variants.items():
                starts[name].append(start(command, environment))
            parts.append(parts_of(options.model, options.threads, warm))
    show(options.model, starts, parts)
    runs = {name: [asdict(one) for one in all_] for name, all_ in starts.items()}
    contents = report(
        "start",
        options.threads,
        {"starts": runs, "parts of the second start": parts},
        model=options.model,
        rounds=options.rounds,
    )
    write_report(options.json, contents)


def show(model: str, starts: dict[str, list[Start]], parts: Sequence[dict[str, float]]) -> None:
    """Prints medians."""
    rounds = len(parts)
    print(f"{model}, median of {rounds}: from the start of the process to the first piece of text")
    print(f"{'start':<12}{'first, s':>10}{'whole, s':>10}{'cpu, s':>10}{'peak, MiB':>12}")
    for name, runs in starts.items():
        median = {
            key: statistics.median(asdict(run)[key] for run in runs)
            for key in ("first", "whole", "processor", "peak")
        }
        print(
            f"{name:<12}{median['first']:>10.3f}{median['whole']:>10.3f}"
            f"{median['processor']:>10.3f}{median['peak'] / 2**20:>12.0f}"
        )
    print("the second start, part by part, s")
    for part in PARTS:
        print(f"  {part:<26}{statistics.median(one[part] for one in parts):>8.3f}")


def file_of(model: str) -> Path:
    """The file that a reference means."""
    from tektra.hub import resolve

    return resolve(model).path


if __name__ == "__main__":
    main()
