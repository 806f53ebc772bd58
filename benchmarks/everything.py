"""Runs the scripts of this folder one after another and writes the page: `make bench`.

    python -m benchmarks.everything [MODEL]            some minutes, without other engines
    python -m benchmarks.everything --peers [MODEL]    other engines beside Tektra, nothing else

Results go to benchmarks/results/, the page and its charts to docs/.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from benchmarks.common import RESULTS, ROOT
from benchmarks.models import DEFAULT_MODEL

from tektra.backends.cpu import CpuBackend, native_core
from tektra.hub import resolve

SYNTHETIC = ("qwen2-1.5b", "q4_k_m")
PEER_WORK = "prefill 512, decode 128, decode 64 @512, decode 32 @64 x16"

# Of speed.py: what is left out for the second instruction set, since long contexts take their time.
SHORT = {
    False: ("--rounds", "4"),
    True: ("--rounds", "3", "--prefill", "128,512", "--depth", "0,512,2048"),
}


def run(module: str, *arguments: str) -> None:
    """A script, whose output is shown; it fails where the script does."""
    print(f"\n== {module} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=ROOT)


def instruction_sets() -> list[str]:
    """The best that this machine has, and AVX2 where that is another one."""
    best = CpuBackend().isa
    core = native_core()
    assert core is not None
    more = "avx2" in core.compiled_isas() and core.runs_here("avx2") and best != "avx2"
    return [best, *(["avx2"] if more else [])]


def alone(model: str, threads: str) -> None:
    """Tektra by itself."""
    for isa in instruction_sets():
        for script in ("kernels", "speed"):
            file = RESULTS / f"{script}-{isa}.json"
            arguments = [model, *SHORT[isa == "avx2"]] if script == "speed" else []
            run(f"benchmarks.{script}", *arguments, "--isa", isa, "--threads", threads,
                "--json", str(file))  # fmt: skip
    for script in ("batch", "memory", "start"):
        if importlib.util.find_spec(f"benchmarks.{script}") is not None:
            file = RESULTS / f"{script}.json"
            run(f"benchmarks.{script}", model, "--threads", threads, "--json", str(file))
    run("benchmarks.sampler", "--tokens", "30")


def beside_others(model: str, threads: str) -> None:
    """Other engines on the model, and on one of random weights in the shape of a larger one."""
    large = ROOT / "build" / "models" / f"{'-'.join(SYNTHETIC)}.gguf"
    if not large.exists():
        large.parent.mkdir(parents=True, exist_ok=True)
        shape, mix = SYNTHETIC
        run("benchmarks.make_model", str(large), "--shape", shape, "--type", mix)
    path = Path(resolve(model).path)
    common = ("--threads", threads)
    run("benchmarks.peers.compare", str(path), *common, "--start", "7", "--mistralrs", "1",
        "--json", str(RESULTS / f"peers-{short(path)}.json"))  # fmt: skip
    run("benchmarks.peers.compare", str(large), *common, "--work", PEER_WORK, "--rounds", "5",
        "--json", str(RESULTS / f"peers-{short(large)}.json"))  # fmt: skip
    if len(instruction_sets()) > 1:
        for file in (path, large):
            run("benchmarks.peers.compare", str(file), *common, "--isa", "avx2",
                "--work", PEER_WORK, "--rounds", "5",
                "--json", str(RESULTS / f"peers-{short(file)}-avx2.json"))  # fmt: skip
    for isa in instruction_sets():
        suffix = "-avx2" if isa == "avx2" else ""
        run("benchmarks.quant_types", "--isa", isa, *common,
            "--json", str(RESULTS / f"quant-types{suffix}.json"))  # fmt: skip


def short(path: Path) -> str:
    """A model's name for a file: ``smollm2-135m-instruct-q4_1``."""
    return path.stem.lower().replace(".", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()
    (beside_others if options.peers else alone)(options.model, options.threads)
    run("benchmarks.page")


if __name__ == "__main__":
    main()
