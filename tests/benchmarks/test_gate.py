"""What the regression gate decides, on numbers that are made up, and that it measures at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
from benchmarks.gate import Shares, check, kept, losses
from benchmarks.kernel_rates import MatrixSet, Shape

from benchmarks import gate
from tektra.backends.cpu import native_core
from tektra.backends.cpu_peaks import Peaks
from tektra.formats.ggml_types import GGMLType

BASELINE: dict[str, Shares] = {"Q4_0 x 1": (0.8, 0.1), "Q4_0 x 128": (0.01, 0.6)}


class Machine:
    """Hands out measurements, one after the other, and notes what was asked for."""

    def __init__(self, *runs: dict[str, Shares]) -> None:
        self.runs = list(runs)
        self.asked: list[list[str]] = []

    def measure(self, kernels: Collection[str]) -> dict[str, Shares]:
        self.asked.append(list(kernels))
        run = self.runs.pop(0)
        return {name: run[name] for name in kernels if name in run}


def scaled(factor: float) -> dict[str, Shares]:
    return {name: (a * factor, b * factor) for name, (a, b) in BASELINE.items()}


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.9, 0.76])
def test_a_small_loss_passes(factor: float) -> None:
    assert losses(BASELINE, scaled(factor)) == []


@pytest.mark.parametrize("factor", [0.74, 0.5, 0.0])
def test_a_loss_fails(factor: float) -> None:
    found = losses(BASELINE, scaled(factor))
    assert [loss.kernel for loss in found] == list(BASELINE)
    assert all(loss.kept == pytest.approx(factor) for loss in found)
    assert f"{1 - factor:.0%} slower" in str(found[0])


def test_one_kernel_is_enough() -> None:
    found = losses(BASELINE, {**BASELINE, "Q4_0 x 128": (0.005, 0.3)})
    assert [loss.kernel for loss in found] == ["Q4_0 x 128"]


def test_slower_memory_is_no_loss() -> None:
    """It is seen in one of the shares only, whichever the kernel waits for."""
    assert kept((0.8, 0.1), (0.8, 0.05)) == 1.0, "waits for memory, which is half as fast"
    assert kept((0.4, 0.1), (0.8, 0.1)) == 2.0
    assert kept((0.4, 0.1), (0.2, 0.1)) == 1.0, "computes, beside memory twice as fast"
    assert kept((0.8, 0.1), (0.4, 0.05)) == 0.5, "the code"


def test_a_kernel_that_is_gone_fails() -> None:
    assert [loss.kernel for loss in losses(BASELINE, {"Q4_0 x 1": (0.8, 0.1)})] == ["Q4_0 x 128"]


def test_a_kernel_without_a_baseline_passes() -> None:
    assert losses(BASELINE, {**BASELINE, "Q9_9 x 1": (0.001, 0.001)}) == []


def test_what_passes_is_measured_once() -> None:
    machine = Machine(scaled(1.0))
    found, best = check(BASELINE, machine.measure)
    assert (found, best) == ([], BASELINE)
    assert machine.asked == [list(BASELINE)]


def test_what_fails_is_measured_again() -> None:
    slow = {**BASELINE, "Q4_0 x 1": (0.4, 0.05)}
    machine = Machine(slow, slow, BASELINE)
    found, best = check(BASELINE, machine.measure)
    assert found == []
    assert best == BASELINE
    assert machine.asked == [list(BASELINE), ["Q4_0 x 1"], ["Q4_0 x 1"]]


def test_what_fails_each_time_fails() -> None:
    machine = Machine(scaled(0.5), scaled(0.7), scaled(0.6))
    found, _ = check(BASELINE, machine.measure)
    assert [loss.kernel for loss in found] == list(BASELINE)
    assert [loss.kept for loss in found] == pytest.approx([0.7, 0.7]), "the best of the attempts"
    assert len(machine.asked) == 3


def run_main(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    shares: dict[str, Shares],
    arguments: Iterable[str] = (),
) -> int:
    """The gate with made-up measurements and a baseline file of its own."""
    monkeypatch.setattr(gate, "BASELINE", path)
    monkeypatch.setattr(gate, "machine_key", lambda: "a machine")
    monkeypatch.setattr(gate, "instruction_sets", lambda: ["one", "two"])
    monkeypatch.setattr(gate, "measure", lambda isa, kernels=None: iter(shares.items()))
    monkeypatch.setattr("sys.argv", ["gate", *arguments])
    return gate.main()


def test_written_and_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    assert run_main(monkeypatch, path, scaled(0.1)) == 0
    assert "no baseline for one on a machine" in capsys.readouterr().out
    path.write_text(json.dumps({"another machine": {"one": {"Q4_0 x 1": [0.5, 0.5]}}}))
    assert run_main(monkeypatch, path, BASELINE, ["--write"]) == 0
    assert set(json.loads(path.read_text())) == {"a machine", "another machine"}
    assert run_main(monkeypatch, path, scaled(0.8)) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, path, scaled(0.7)) == 1
    assert "one: Q4_0 x 1 is 30% slower" in capsys.readouterr().out


def test_the_baseline_of_the_repository_is_well_formed() -> None:
    for sets in gate.read_baseline().values():
        for kernels in sets.values():
            for memory, arithmetic in kernels.values():
                assert 0.0 < max(memory, arithmetic) < 1.5


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
def test_bounds_of_a_walk() -> None:
    """3 matrices of 32 x 64 in Q4_0 (18 bytes for 32), and of F32, times 5 rows."""
    peaks = Peaks("any", 1, 1000.0, 500.0, 100.0, 0.0, 0.0)
    for type_, num_bytes, rate in ((GGMLType.Q4_0, 1152, 500.0), (GGMLType.F32, 8192, 100.0)):
        matrices = MatrixSet(
            type_, Shape(32, 64), total_bytes=2 * num_bytes + 1, max_rows=5, threads=1
        )
        assert (matrices.count, matrices.file_bytes) == (3, 3 * num_bytes)
        memory, arithmetic = matrices.bounds(peaks, 5)
        assert memory == pytest.approx(3 * num_bytes / 1000.0)
        assert arithmetic == pytest.approx(3 * 32 * 64 * 5 / rate)
        times = matrices.each(5)
        assert len(times) == 3
        assert all(seconds > 0.0 for seconds in times)
        matrices.close()


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
def test_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "KERNELS", {1: (Shape(64, 256), 1 << 16), 8: (Shape(64, 256), 0)})
    monkeypatch.setattr(gate, "BUFFER_BYTES", 1 << 20)
    isa = gate.instruction_sets()[0]
    found = dict(gate.measure(isa, ["Q4_K x 8", "F16 x 1"]))
    assert list(found) == ["Q4_K x 8", "F16 x 1"]
    assert all(share > 0.0 for shares in found.values() for share in shares)
