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
