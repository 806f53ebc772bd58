"""`tektra bench --profile`: where the time of a step goes, op by op, and what it could be.

It runs the steps of a test with the executable's own clock on, divides by what `cpu_costs.py` says
each op must move and compute, and by what `cpu_peaks.py` measured in the same run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import CompileOptions, Step
from tektra.backends.cpu_costs import OpCost
from tektra.backends.cpu_peaks import PeakMeter, Peaks
from tektra.cli.bench_runner import BenchTest, Runner

__all__ = [
    "OpProfile",
    "Profiled",
    "TestProfile",
    "grouped",
    "profile_test",
    "profile_tests",
    "table",
]


_SAMPLES = 4
_BYTES = ("weights", "cache", "activations")


class Costs(Protocol):
    """See `tektra.backends.cpu_costs.CostModel`."""

    @property
    def labels(self) -> list[str]: ...
    def costs(self, step: Step) -> list[OpCost]: ...


class Profiled(Protocol):
    """What is needed of an executable: of those there are, `CpuExecutable` has it."""

    options: CompileOptions

    @property
    def isa(self) -> str: ...
    @property
    def costs(self) -> Costs: ...
    def run(self, step: Step) -> NDArray[np.float32]: ...
    def set_profiling(self, on: bool) -> None: ...
    @property
    def profile(self) -> list[tuple[str, float, int]]: ...


@dataclass(frozen=True, slots=True)
class OpProfile:
    """One op, or several as one, over all steps of a test.

    Attributes:
        kind: of the op, as the core calls it.
        name: the matrices that it multiplies, or the layer whose cache it reads.
        calls: how often it ran.
        seconds: that it took.
        cost: what it had to move and compute.
    """

    kind: str
    name: str
    calls: int
    seconds: float
    cost: OpCost

    def bound(self, peaks: Peaks) -> float:
        """Seconds that the machine needs at least."""
        return peaks.seconds(self.cost.num_bytes, self.cost.int8, self.cost.floats)

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        seconds = self.seconds or float("inf")
        return {
            "kind": self.kind,
            "name": self.name,
            "calls": self.calls,
            "seconds": self.seconds,
            "bytes": {key: value for key, value in asdict(self.cost).items() if key in _BYTES},
            "operations": {"int8": self.cost.int8, "float": self.cost.floats},
            "gb_per_second": self.cost.num_bytes / seconds / 1e9,
            "gop_per_second": self.cost.operations / seconds / 1e9,
            "bound_seconds": self.bound(peaks),
            "share": self.bound(peaks) / seconds,
        }


@dataclass(frozen=True, slots=True)
class TestProfile:
    """Of one test.

    Attributes:
        test: its name.
        threads: that computed.
        steps: how many ran.
        seconds: of all steps, as their caller sees them, with the profile's own clock.
        ops: of the program, in order.
    """

    __test__ = False

    test: str
    threads: int
    steps: int
    seconds: float
    ops: tuple[OpProfile, ...]

    @property
    def op_seconds(self) -> float:
        return sum(op.seconds for op in self.ops)

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        return {
            "test": self.test,
            "peaks": peaks.to_dict(),
            "threads": self.threads,
            "steps": self.steps,
            "seconds": self.seconds,
            "op_seconds": self.op_seconds,
            "between_ops_seconds": self.seconds - self.op_seconds,
            "bound_seconds": sum(op.bound(peaks) for op in self.ops),
            "loop_seconds": peaks.loop_seconds * sum(op.calls for op in self.ops),
            "kinds": [op.to_dict(peaks) for op in grouped(self.ops, lambda op: (op.kind, ""))],
            "ops": [op.to_dict(peaks) for op in self.ops],
        }


def profile_test(
    executable: Profiled,
    test: BenchTest,
    *,
    vocab_size: int,
    repetitions: int,
    seed: int = 0,
    after_each: Callable[[int], None] = lambda done: None,
) -> TestProfile:
    """Runs a test as `measure` does, once to warm up and then profiled.

    Raises:
        BackendError: a step failed.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, test.context, dtype=np.int32)
    runner = Runner(executable, tokens)
    runner.advance(0, test.depth, executable.options.max_rows)
    chunk = executable.options.max_rows if test.kind == "prefill" else 1
    steps = list(runner.steps(test.depth, test.context, chunk))
    for step in steps:
        executable.run(step)
    after_each(1)
    seconds = 0.0
    executable.set_profiling(True)
    try:
        for repetition in range(repetitions):
            for step in steps:
                start = time.perf_counter()
                executable.run(step)
                seconds += time.perf_counter() - start
            after_each(repetition + 2)
        times = executable.profile
    finally:
        executable.set_profiling(False)
    costs = [OpCost()] * len(times)
    for step in steps:
        costs = [a + b for a, b in zip(costs, executable.costs.costs(step), strict=True)]
    ops = (
        OpProfile(kind, label, calls, taken, _times(cost, repetitions))
        for (kind, taken, calls), label, cost in zip(
            times, executable.costs.labels, costs, strict=True
        )
        if calls
    )
    return TestProfile(
        test=test.name,
        threads=executable.options.num_threads,
        steps=len(steps) * repetitions,
        seconds=seconds,
        ops=tuple(ops),
    )


def profile_tests(
    executable: Profiled,
    tests: Sequence[BenchTest],
    *,
    vocab_size: int,
    repetitions: int,
    after_each: Callable[[BenchTest, int], None] = lambda test, done: None,
) -> list[tuple[TestProfile, Peaks]]:
    """Profiles of all tests, and what the machine can do, measured before and after each."""
    meter = PeakMeter(executable.isa, executable.options.num_threads)
    profiles = []
    for test in tests:

        def after(done: int, test: BenchTest = test) -> None:
            after_each(test, done)

        meter.forget()
        meter.sample(_SAMPLES)
        profile = profile_test(
            executable, test, vocab_size=vocab_size, repetitions=repetitions, after_each=after
        )
        meter.sample(_SAMPLES)
        profiles.append((profile, meter.best))
    return profiles


def grouped(
    ops: Iterable[OpProfile], key: Callable[[OpProfile], tuple[str, str]]
) -> list[OpProfile]:
    """Ops with the same key (kind, name) as one, the slowest first."""
    sums: dict[tuple[str, str], OpProfile] = {}
    for op in ops:
        kind, name = key(op)
        old = sums.get((kind, name), OpProfile(kind, name, 0, 0.0, OpCost()))
        sums[kind, name] = OpProfile(
            kind, name, old.calls + op.calls, old.seconds + op.seconds, old.cost + op.cost
        )
    return sorted(sums.values(), key=lambda op: -op.seconds)


def table(profile: TestProfile, peaks: Peaks) -> list[str]:
    """Lines: each kind of op, below it the matrices that it works on, layers taken together."""
    per_step = 1e3 / profile.steps
    lines = [
        f"{profile.test}, {profile.threads} threads, {profile.steps} steps",
        f"  {peaks_line(peaks)}",
        f"  {'op':<34} {'calls':>5} {'ms':>9} {'share':>6} {'MB':>8} {'GB/s':>6} {'Mop':>8} "
        f"{'Gop/s':>6} {'of bound':>8}",
    ]

    def line(op: OpProfile, text: str) -> str:
        seconds = op.seconds or float("inf")
        calls = op.calls / profile.steps
        moved, done = op.cost.num_bytes / profile.steps, op.cost.operations / profile.steps
        return (
            f"  {text:<34} {calls:>5.4g} {op.seconds * per_step:>9.3f} "
            f"{op.seconds / profile.seconds:>6.1%} {_short_number(moved / 1e6):>8} "
            f"{op.cost.num_bytes / seconds / 1e9:>6.1f} {_short_number(done / 1e6):>8} "
            f"{op.cost.operations / seconds / 1e9:>6.1f} {op.bound(peaks) / seconds:>8.1%}"
        )

    roles = grouped(profile.ops, lambda op: (op.kind, _role(op)))
    for kind in grouped(profile.ops, lambda op: (op.kind, "")):
        lines.append(line(kind, kind.kind))
        parts = [op for op in roles if op.kind == kind.kind]
        if len(parts) > 1:
            lines += [line(op, "  " + _short(op.name)) for op in parts]
    between = profile.seconds - profile.op_seconds
    num_ops = sum(op.calls for op in profile.ops) / profile.steps
    bound = sum(op.bound(peaks) for op in profile.ops)
    lines += [
        f"  all ops {profile.op_seconds * per_step:.3f} ms, "
        f"the step {profile.seconds * per_step:.3f} ms: "
        f"{between * per_step:.3f} ms ({between / profile.seconds:.1%}) outside of ops",
        f"  in the ops, {num_ops:.0f} x {peaks.loop_seconds * 1e6:.2f} us for a parallel loop "
        f"with nothing to do: {num_ops * peaks.loop_seconds * 1e3:.3f} ms",
        f"  the machine could do it in {bound * per_step:.3f} ms ({bound / profile.seconds:.1%})",
    ]
    return lines


def peaks_line(peaks: Peaks) -> str:
    """What the machine can do."""
    return (
        f"this machine reads {peaks.read_bytes_per_second / 1e9:.1f} GB/s, "
        f"{peaks.int8_per_second / 1e9:.0f} Gop/s int8, {peaks.float_per_second / 1e9:.0f} Gop/s "
        f"float (multiply-adds, {peaks.isa}), a parallel loop {peaks.loop_seconds * 1e6:.2f} us, "
        f"{peaks.meeting_seconds * 1e6:.2f} us until all threads have met"
    )


def _times(cost: OpCost, factor: int) -> OpCost:
    return OpCost(**{key: value * factor for key, value in asdict(cost).items()})


def _role(op: OpProfile) -> str:
    """The name without the number of the layer."""
    return re.sub(r"\bblk\.\d+\.?", "", op.name)


def _short_number(value: float) -> str:
    """Three digits, or as many as there are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _short(name: str, width: int = 30) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."
