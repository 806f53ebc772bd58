"""`tektra doctor`: what it reports, also where something is missing."""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType

import pytest
from tests.cli.conftest import Invoke

from tektra._version import __version__
from tektra.cli import machine
from tektra.hub import CatalogEntry


def test_json(invoke: Invoke) -> None:
    report = json.loads(invoke("doctor", "--json").stdout)
    assert report["version"] == __version__
    assert report["machine"]["cores_logical"] == os.cpu_count()
    assert 1 <= report["machine"]["cores_usable"] <= report["machine"]["cores_logical"]
    assert report["machine"]["memory_total"] > 1 << 28
    assert {device["device"] for device in report["devices"]} == {
        "cpu", "reference", "cuda", "metal"
    }  # fmt: skip
    assert report["libraries"]["numpy"]
    assert [model["alias"] for model in report["models"]] == ["smollm2:135m"]


def test_the_native_core(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    core = ModuleType("tektra._native")
    core.isa = lambda: "avx2"  # type: ignore[attr-defined]
    core.compiled_isas = lambda: ["scalar", "avx2"]  # type: ignore[attr-defined]
    core.cpu_features = lambda: [("avx2", True), ("amx", False)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tektra._native", core)
    report = json.loads(invoke("doctor", "--json").stdout)
    assert (report["isa"], report["cpu_features"]) == ("avx2", ["avx2"])
    assert "native core, avx2" in invoke("doctor").stdout


def test_without_the_native_core(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tektra._native", None)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "C++20 compiler" in result.stdout
    report = json.loads(invoke("doctor", "--json").stdout)
    available = {device["device"]: device["available"] for device in report["devices"]}
    assert available == {"cpu": False, "reference": True, "cuda": False, "metal": False}


def test_an_instruction_set_that_is_not_there(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = ModuleType("tektra._native")

    def isa() -> str:
        raise ValueError("TEKTRA_ISA=neon is not built")

    core.isa = isa  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tektra._native", core)
    assert "TEKTRA_ISA=neon is not built" in invoke("doctor").stdout


def test_what_is_missing(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CatalogEntry, "installed_path", lambda self: None)
    monkeypatch.setenv("TEKTRA_THREADS", "none")
    report = json.loads(invoke("doctor", "--json").stdout)
    assert report["models"][0]["path"] is None
    assert "pip install" in report["models"][0]["install"]
    assert any("TEKTRA_THREADS" in item["what"] for item in report["missing"])
    assert "not installed" in invoke("doctor").stdout


def test_memory_limit_of_a_control_group(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    root = Path(tmp_path)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "memory.max").write_text("1000000\n")
    (root / "a" / "memory.current").write_text("400\n")
    (root / "a" / "b" / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "_CGROUPS", root)
    real = machine._read

    def read(path: str | Path) -> str:
        return "0::/a/b\n" if str(path) == "/proc/self/cgroup" else real(path)

    monkeypatch.setattr(machine, "_read", read)
    described = machine.describe_machine()
    assert (described.memory_limit, described.memory_used_of_limit) == (1_000_000, 400)
