"""Has a matrix kernel become slower? Compares shares of the machine's own peak, not times.

Each kernel's best shares, on one thread, are held against those in baseline.json of the same
processor and instruction set. A loss of more than 25 % fails, if it is still there when the kernel
has been measured again twice. Where there is no baseline, it says so and passes.

    python -m benchmarks.gate             what `make gate` runs; some 20 s
    python -m benchmarks.gate --write     measures the baseline of this machine again

Shares are the least time that the machine needs for the bytes and for the multiply-adds, by peaks
measured between the runs, over the time taken. One thread, short pieces and the best of many: what
else runs on the machine spoils some of them, not the result.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import cpu_info, processor
from benchmarks.kernel_rates import TYPES, MatrixSet, Shape

from tektra.backends.cpu import native_core
from tektra.backends.cpu_peaks import PeakMeter
from tektra.formats.ggml_types import GGMLType

__all__ = ["Loss", "check", "kept", "losses", "machine_key"]

BASELINE = Path(__file__).with_name("baseline.json")
ALLOWED_LOSS = 0.25
ATTEMPTS = 3
# By rows: the shape, and how many bytes of it. One row walks through more than the caches hold;
# many rows multiply small matrices, each in less than a millisecond, so that some are undisturbed.
KERNELS = {1: (Shape(1536, 1536), 96 << 20), 128: (Shape(256, 1536), 0)}
COUNT = 16
ROUNDS = 5
BUFFER_BYTES = 128 << 20

Shares = tuple[float, float]
"""Of the speed of memory and of arithmetic at the time; 1 is as fast as the machine can be."""

Baseline = dict[str, dict[str, dict[str, Shares]]]
"""Shares by processor, instruction set and kernel."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A kernel that has become slower: its rate, as a share of the one in the baseline."""

    kernel: str
    kept: float

    def __str__(self) -> str:
        return f"{self.kernel} is {1 - self.kept:.0%} slower than it was, measured by the machine"


def kept(baseline: Shares, measured: Shares | None) -> float:
    """How much of its rate a kernel has kept, by the yardstick that makes the most of it.

    Where the kernel waits for memory, its share of the memory's speed stays the same on a machine
    whose memory is slower today; where it computes, its share of the arithmetic's does. Code that
    became slower loses both. Nothing is left of a kernel that is not measured any more.
    """
    if measured is None:
        return 0.0
    return max(now / then for then, now in zip(baseline, measured, strict=True))


def losses(
    baseline: Mapping[str, Shares], measured: Mapping[str, Shares], allowed: float = ALLOWED_LOSS
) -> list[Loss]:
    """Kernels that lost more than is allowed."""
    left = {kernel: kept(then, measured.get(kernel)) for kernel, then in baseline.items()}
    return [Loss(kernel, share) for kernel, share in left.items() if share < 1.0 - allowed]


def check(
    baseline: Mapping[str, Shares],
    measure: Callable[[Collection[str]], Mapping[str, Shares]],
    *,
    attempts: int = ATTEMPTS,
    allowed: float = ALLOWED_LOSS,
) -> tuple[list[Loss], dict[str, Shares]]:
    """Losses that are there each time that a kernel is measured, and the best shares of each.

    ``measure`` gets the names of kernels and returns their shares.
    """
    best: dict[str, Shares] = {}
    wanted: Collection[str] = list(baseline)
    found: list[Loss] = []
    for _ in range(attempts):
        for kernel, shares in measure(wanted).items():
            memory, arithmetic = best.get(kernel, (0.0, 0.0))
            best[kernel] = (max(memory, shares[0]), max(arithmetic, shares[1]))
        found = losses(baseline, best, allowed)
        if not found:
            break
        wanted = [loss.kernel for loss in found]
    return found, best


def machine_key() -> str:
    """What processor this is; virtual machines hide its name, not its model."""
    info = cpu_info()
    numbers = [re.search(rf"^{field}\s*:\s*(\d+)$", info, re.MULTILINE)
               for field in ("cpu family", "model")]  # fmt: skip
    return ", ".join(
        [processor(), *(f"{m[0].split(':')[0].strip()} {m[1]}" for m in numbers if m is not None)]
    )


def kernel_name(type_: GGMLType, rows: int) -> str:
    return f"{type_.name} x {rows}"


def measure(isa: str, kernels: Collection[str] | None = None) -> Iterator[tuple[str, Shares]]:
    """Name and shares of each kernel, or of those that are named."""
    meter = PeakMeter(isa, 1, buffer_bytes=BUFFER_BYTES)
    for type_ in TYPES:
        for rows, (shape, num_bytes) in KERNELS.items():
            name = kernel_name(type_, rows)
            if kernels is not None and name not in kernels:
                continue
            num_bytes = num_bytes or COUNT * shape.num_bytes(type_)
            matrices = MatrixSet(
                type_, shape, total_bytes=num_bytes, max_rows=rows, threads=1, isa=isa
            )
            meter.forget()
            best = float("inf")
            matrices.walk(rows)
            for _ in range(ROUNDS):
                meter.sample_rates()
                # a quarter is as fast or faster: what lost its core for a moment is not in it
                each = sorted(matrices.each(rows))
                best = min(best, each[len(each) // 4])
            memory, arithmetic = matrices.bounds(meter.best, rows)
            yield name, (memory / matrices.count / best, arithmetic / matrices.count / best)
            matrices.close()


def measure_named(isa: str, kernels: Collection[str]) -> dict[str, Shares]:
    """As `check` wants it."""
    return dict(measure(isa, kernels))


def instruction_sets() -> list[str]:
    """Those that are worth guarding here: the one in use, and AVX2 where it is not that."""
    core = native_core()
    if core is None:
        return []
    best = core.isa()
    more = ["avx2"] if best != "avx2" and "avx2" in core.compiled_isas() else []
    return [best, *(isa for isa in more if core.runs_here(isa))]


def read_baseline() -> Baseline:
    contents = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return {
        machine: {
            isa: {kernel: (float(memory), float(arithmetic))
                  for kernel, (memory, arithmetic) in kernels.items()}
            for isa, kernels in sets.items()
        }
        for machine, sets in contents.items()
    }  # fmt: skip


def write(repetitions: int) -> None:
    """Puts the medians of several measurements into the baseline of this machine."""
    baseline = read_baseline()
    runs: dict[str, dict[str, list[Shares]]] = {}
    for _ in range(repetitions):
        for isa in instruction_sets():
            for kernel, shares in measure(isa):
                runs.setdefault(isa, {}).setdefault(kernel, []).append(shares)
    baseline[machine_key()] = {
        isa: {
            kernel: (
                round(statistics.median(memory for memory, _ in shares), 4),
                round(statistics.median(arithmetic for _, arithmetic in shares), 4),
            )
            for kernel, shares in kernels.items()
        }
        for isa, kernels in runs.items()
    }
    text = json.dumps(baseline, indent=1, sort_keys=True)
    # each kernel on a line of its own
    text = re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text)
    BASELINE.write_text(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="measure the baseline again")
    parser.add_argument("--repetitions", type=int, default=3, help="for --write (3)")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.write:
        write(options.repetitions)
        print(f"{BASELINE.name}: written for {machine_key()}")
        return 0
    lost: list[Loss] = []
    of_machine = read_baseline().get(machine_key(), {})
    for isa in instruction_sets():
        baseline = of_machine.get(isa, {})
        if not baseline:
            print(f"gate: no baseline for {isa} on {machine_key()}: nothing is compared")
            continue
        found, shares = check(baseline, partial(measure_named, isa))
        lost += found
        for loss in found:
            print(f"gate: {isa}: {loss}")
        left, worst = min((kept(then, shares.get(name)), name) for name, then in baseline.items())
        print(
            f"gate: {isa}: {len(baseline) - len(found)} of {len(baseline)} kernels pass; "
            f"the worst, {worst}, is at {left:.0%} of its baseline"
        )
    print(f"gate: {time.perf_counter() - start:.0f} s")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
