"""`tektra bench`: which steps it runs, and what it makes of the times."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.cli.conftest import Invoke

from tektra.backends.base import CompileOptions, Executable, MemoryUse, Step
from tektra.backends.cpu import native_core
from tektra.backends.cpu_costs import OpCost
from tektra.backends.cpu_peaks import Peaks
from tektra.cli.bench_profile import grouped, profile_test, table
from tektra.cli.bench_runner import BenchTest, measure, plan_tests
from tektra.errors import InvalidParameterError
from tektra.graph import OutputName


class Recorder(Executable):
    """Notes the steps; a step takes as many seconds as it has rows, on the clock it carries."""

    def __init__(self, max_rows: int) -> None:
        self.options = CompileOptions(num_threads=3, max_rows=max_rows, num_kv_blocks=64)
        self.steps: list[Step] = []
        self.clock = 0.0
        self.speed = 1.0

    def run(self, step: Step, output: OutputName = "logits") -> NDArray[np.float32]:
        self.steps.append(step)
        self.clock += step.num_rows / self.speed
        return np.zeros((len(step.output_rows), 8), np.float32)

    @property
    def memory(self) -> MemoryUse:
        return MemoryUse()

    def close(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder(max_rows=32)
    monkeypatch.setattr(time, "perf_counter", lambda: made.clock)
    return made


def shapes(steps: list[Step]) -> list[tuple[int, int, int]]:
    """(cached tokens, rows, outputs) of each step."""
    return [(int(s.num_cached[0]), s.num_rows, len(s.output_rows)) for s in steps]


def test_prefill_runs_in_chunks_with_one_output(recorder: Recorder) -> None:
    measure(recorder, BenchTest("prefill", 70, 0), vocab_size=100, repetitions=1)
    run = [(0, 32, 0), (32, 32, 0), (64, 6, 1)]
    assert shapes(recorder.steps) == run * 2, "once to warm up and once timed"
    last = recorder.steps[2]
    assert last.output_rows.tolist() == [5]
    assert last.positions.tolist() == list(range(64, 70))
    assert last.block_tables.tolist() == [[0, 1, 2]]
    assert recorder.steps[0].block_tables.tolist() == [[0, -1, -1]]
    assert all(0 <= token < 100 for step in recorder.steps for token in step.token_ids)


def test_decode_runs_one_token_at_a_time_from_its_depth(recorder: Recorder) -> None:
    measure(recorder, BenchTest("decode", 3, 40), vocab_size=100, repetitions=2)
    fill, run = [(0, 32, 0), (32, 8, 1)], [(40, 1, 1), (41, 1, 1), (42, 1, 1)]
    assert shapes(recorder.steps) == fill + run * 3, "the cache is filled once"


def test_the_figures(recorder: Recorder) -> None:
    speeds = iter([1.0, 10.0, 40.0, 20.0])

    def next_speed(done: int) -> None:
        recorder.speed = next(speeds, 1.0)

    next_speed(0)
    result = measure(
        recorder, BenchTest("decode", 4, 0), vocab_size=9, repetitions=3, after_each=next_speed
    )
    samples = [10.0, 40.0, 20.0]
    assert result.samples == pytest.approx(samples)
    assert result.tokens_per_second == pytest.approx(20.0)
    assert result.mean == pytest.approx(statistics.fmean(samples))
    assert result.stdev == pytest.approx(statistics.stdev(samples))
    assert (result.min, result.max) == pytest.approx((10.0, 40.0))
    assert (result.repetitions, result.threads, result.test) == (3, 3, "decode4@0")


def test_which_tests_there_are() -> None:
    names = [test.name for test in plan_tests([512, 0, 64], [8], [0, 100])]
    assert names == [
        "prefill512", "prefill64", "prefill512@100", "prefill64@100", "decode8@0", "decode8@100"
    ]  # fmt: skip
    with pytest.raises(InvalidParameterError):
        plan_tests([0], [], [0])


ARGS = ("--prefill", "40,8", "--decode", "4", "--depth", "0,33", "-r", "2", "--chunk", "16")


def test_json(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, *ARGS, "--threads", "1,2", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    tests = ["prefill40", "prefill8", "prefill40@33", "prefill8@33", "decode4@0", "decode4@33"]
    assert [r["test"] for r in report["results"]] == tests * 2
    assert [r["threads"] for r in report["results"]] == [1] * 6 + [2] * 6
    for entry in report["results"]:
        assert 0 < entry["min"] <= entry["tokens_per_second"] <= entry["max"]
        assert entry["repetitions"] == len(entry["samples"]) == 2
    assert report["backend"] in ("cpu", "reference")
    assert report["sampler_included"] is False
    assert report["machine"]["cores_usable"] >= 1


def test_text(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, *ARGS, "--device", "reference", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "reference" in lines[0]
    assert len(lines) == 2 + 6


def test_longer_than_the_model_can_read(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, "--prefill", "100000")
    assert result.exit_code == 1
    assert "context" in result.stderr


class MadeUpCosts:
    """Of the ops of `Clocked`."""

    def __init__(self) -> None:
        self.labels = ["blk.0.ffn_down", "blk.0"]

    def costs(self, step: Step) -> list[OpCost]:
        rows = step.num_rows
        return [OpCost(weights=100, int8=10 * rows), OpCost(cache=50, floats=7 * rows)]


class Clocked(Recorder):
    """Has two ops: a linear of 1 s a row, and attention of 1 s a step; 0.5 s a step get lost."""

    isa = "made up"

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows)
        self.costs = MadeUpCosts()
        self.times: list[list[float]] = []

    def run(self, step: Step, output: OutputName = "logits") -> NDArray[np.float32]:
        self.times.append([step.num_rows, 1.0])
        self.clock += step.num_rows + 1.5
        self.steps.append(step)
        return np.zeros((len(step.output_rows), 8), np.float32)

    def set_profiling(self, on: bool) -> None:
        if on:
            self.times = []

    @property
    def profile(self) -> list[tuple[str, float, int]]:
        linear, attention = (sum(column) for column in zip(*self.times, strict=True))
        calls = len(self.times)
        return [("linear", linear, calls), ("attention", attention, calls)]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    made = Clocked(max_rows=32)
    monkeypatch.setattr(time, "perf_counter", lambda: made.clock)
    return made


PEAKS = Peaks("made up", 3, 100.0, 50.0, 10.0, 0.01, 0.02)


def test_profile_of_a_test(clocked: Clocked) -> None:
    profile = profile_test(clocked, BenchTest("prefill", 40, 0), vocab_size=9, repetitions=2)
    assert [step.num_rows for step in clocked.steps] == [32, 8] * 3, "once to warm up"
    assert (profile.steps, profile.threads, profile.test) == (4, 3, "prefill40")
    linear, attention = profile.ops
    assert (linear.name, linear.calls, linear.seconds) == ("blk.0.ffn_down", 4, 80.0)
    assert linear.cost == OpCost(weights=400, int8=800)
    assert attention.cost == OpCost(cache=200, floats=560)
    assert (attention.calls, attention.seconds) == (4, 4.0)
    report = profile.to_dict(PEAKS)
    assert report["seconds"] == pytest.approx(80 + 4 + 4 * 0.5)
    assert report["op_seconds"] == pytest.approx(84.0)
    assert report["between_ops_seconds"] == pytest.approx(2.0)
    assert report["loop_seconds"] == pytest.approx(8 * 0.01)
    # 400 bytes at 100 a second, 800 operations at 50; 200 bytes at 100, 560 at 10
    assert report["bound_seconds"] == pytest.approx(16.0 + 56.0)
    assert report["ops"][0]["share"] == pytest.approx(16.0 / 80.0)
    assert report["ops"][0]["gb_per_second"] == pytest.approx(400 / 80 / 1e9)
    assert report["ops"][1]["gop_per_second"] == pytest.approx(560 / 4 / 1e9)
    lines = table(profile, PEAKS)
    assert [line.split()[0] for line in lines[3:5]] == ["linear", "attention"]


def test_grouped_ops(clocked: Clocked) -> None:
    profile = profile_test(clocked, BenchTest("decode", 3, 0), vocab_size=9, repetitions=1)
    (both,) = grouped(profile.ops, lambda op: ("all", ""))
    assert (both.calls, both.seconds) == (6, 6.0)
    assert both.cost == profile.ops[0].cost + profile.ops[1].cost


needs_core = pytest.mark.skipif(native_core() is None, reason="the native core is not built")


@needs_core
def test_profile_of_a_model(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, *ARGS, "--threads", "1,2", "--profile", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    for name in ("test", "threads"):
        assert [p[name] for p in report["profiles"]] == [r[name] for r in report["results"]]
    for test in report["profiles"]:
        assert (test["peaks"]["isa"], test["peaks"]["threads"]) == (report["isa"], test["threads"])
        assert 0.0 < test["op_seconds"] <= test["seconds"]
        assert sum(op["seconds"] for op in test["ops"]) == pytest.approx(test["op_seconds"])
        assert sum(op["seconds"] for op in test["kinds"]) == pytest.approx(test["op_seconds"])
        assert test["kinds"][0]["seconds"] >= test["kinds"][-1]["seconds"]
        kinds = {op["kind"] for op in test["ops"]}
        assert {"embed", "linear", "attention"} <= kinds
        for op in test["ops"]:
            assert op["calls"] == test["steps"]
            assert (op["operations"]["int8"] + op["operations"]["float"] > 0) == (
                op["kind"] in ("linear", "attention")
            )


@needs_core
def test_profile_as_text(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, *ARGS, "--threads", "1", "--profile", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("of bound") == 6
    assert result.stdout.count("outside of ops") == 6
    assert "ffn_down" in result.stdout


def test_no_profile_of_the_reference(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("bench", tiny_path, *ARGS, "--profile", "--device", "reference")
    assert result.exit_code == 1
    assert "--profile" in result.stderr
    assert "--device cpu" in result.stderr
