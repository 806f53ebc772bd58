"""The page and its charts, from reports that are made up; and how pieces of work are written."""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common import numbers, render_table, report, write_report
from benchmarks.peers.compare import Work
from benchmarks.plot import Bar, Row, bar_chart

from benchmarks import page

PEAKS = {"read_bytes_per_second": 50e9, "int8_per_second": 400e9, "float_per_second": 100e9}


def write(
    folder: Path, name: str, question: str, results: list[dict[str, Any]], **more: Any
) -> None:
    write_report(folder / name, report(question, 2, results, **more))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    peers = [
        {"test": "prefill 512", "tektra": 1200.0, "llama_cpp": 300.0, "ratio_llama_cpp": 4.1,
         "mistralrs": 30.0, "ratio_mistralrs": 40.5},
        {"test": "decode 32 @64 x16", "tektra": 900.0, "llama_cpp": 225.0, "ratio_llama_cpp": 4.2},
        {"test": "start to first token", "tektra": 0.3, "llama_cpp": 0.6, "ratio_llama_cpp": 2.0},
    ]  # fmt: skip
    write(tmp_path, "peers-toy.json", "peers", peers, model="toy <1>.gguf", isa="avx2")
    kernels = [
        {"type": "Q4_0", "shape": "64x64", "rows": rows, "bound": bound, "gb_per_second": 25.0,
         "gop_per_second": 100.0, "share": share}
        for rows, bound, share in ((1, "memory", 0.5), (512, "arithmetic", 0.25))
    ]  # fmt: skip
    write(tmp_path, "kernels-avx2.json", "kernels", kernels, isa="avx2", peaks=PEAKS)
    speed = [
        {"model": "toy", "test": "prefill512", "tokens_per_second": 7.0, "share": 0.5,
         "int8_share": 0.4},
        {"model": "toy", "test": "decode64@0", "tokens_per_second": 3.0, "share": 0.8,
         "int8_share": 0.1},
    ]  # fmt: skip
    write(tmp_path, "speed-avx2.json", "speed", speed, isa="avx2", peaks=PEAKS)
    batch = [{"level": "engine", "sequences": 16, "tokens_per_second": 640.0}]
    write(tmp_path, "batch.json", "batch", batch, isa="avx2", peaks=PEAKS, model="toy")
    names = ("planned", "loaded", "peak_load", "peak_full", "without_model")
    memory = [{"model": "toy", **{name: (i + 1) << 20 for i, name in enumerate(names)}}]
    write(tmp_path, "memory.json", "memory", memory)
    (tmp_path / "other.json").write_text('{"format": "of another time"}')
    return tmp_path


def test_page(results: Path) -> None:
    text, charts = page.render_page(page.read_results(results))
    for line in (
        "| prefill 512 | 1200.0 | 300.0 | 4.10 x | 30.0 | 40.50 x |",
        "| 16 sequences, decode 32 | 900.0 | 225.0 | 4.20 x |  |  |",
        "| start to first token | 0.30 s | 0.60 s | 2.00 x |  |  |",
        "| Q4_0 | 64x64 | 25.0 GB/s, 50% | 100 Gop/s, 25% |",
        "| toy: prefill512 | 7.0 | 50% | 40% |",
        "| toy: decode64@0 | 3.0 | 80% |  |",
        "| engine, 16 | 640.0 |  |",
        "| toy | 1 | 2 | 3 | 4 | 5 |",
    ):
        assert line in text.splitlines()
    assert "reads 50 GB/s, 400 G int8 and 100 G float" in text
    assert set(charts) == {"benchmarks-peers-toy.svg", "benchmarks-kernels-avx2.svg"}
    for name in charts:
        assert f"]({name})" in text


def test_no_results_are_no_page_without_an_introduction(tmp_path: Path) -> None:
    text, charts = page.render_page(page.read_results(tmp_path))
    assert text.startswith("# Benchmarks")
    assert "## " not in text
    assert charts == {}


def test_each_script_is_in_the_introduction() -> None:
    text = (Path(page.__file__).parent / "intro.md").read_text()
    helpers = {"common", "kernel_rates", "models", "page", "plot", "everything"}
    for script in Path(page.__file__).parent.glob("*.py"):
        if script.stem not in helpers:
            assert f"benchmarks.{script.stem}`" in text or f"benchmarks/{script.name}`" in text


def elements(svg: str, name: str) -> list[ET.Element]:
    return ET.fromstring(svg).findall(f".//{{http://www.w3.org/2000/svg}}{name}")


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart(
        "A & B",
        "sub",
        ["one", "two"],
        [Row("first", [Bar(0, 4.0, "four"), Bar(1, 1.0, "<one>")]), Row("heading")],
        unit=" x",
        mark=1.0,
    )
    widths = {
        bar.get("class"): float(bar.get("width", "0"))
        for bar in elements(svg, "rect")
        if bar.get("height") == "13"
    }
    assert widths["s0"] == pytest.approx(4 * widths["s1"], rel=0.01)
    texts = [text.text for text in elements(svg, "text")]
    assert {"A & B", "first", "four", "<one>", "heading", "0 x", "4 x"} <= set(texts)
    mark = next(line for line in elements(svg, "line") if line.get("class") == "mark")
    assert float(mark.get("x1", "0")) == pytest.approx(190 + widths["s1"], abs=0.2)


@pytest.mark.parametrize("largest", [0.003, 0.7, 1.0, 93.0, 4321.0])
def test_the_axis_has_few_lines_and_reaches_the_largest(largest: float) -> None:
    svg = bar_chart("t", "s", ["a"], [Row("r", [Bar(0, largest, "")])], unit="")
    lines = [line for line in elements(svg, "line") if line.get("class") == "grid"]
    assert 2 <= len(lines) <= 10
    bar = next(b for b in elements(svg, "rect") if b.get("height") == "13")
    assert 190 + float(bar.get("width", "0")) <= float(lines[-1].get("x1", "0")) + 0.1


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("prefill 512", Work("prefill", 512)),
        (" decode 64 @2048 ", Work("decode", 64, 2048)),
        ("decode 32 @64 x16", Work("decode", 32, 64, 16)),
        ("decode 8 x4", Work("decode", 8, 0, 4)),
    ],
)
def test_work(text: str, work: Work) -> None:
    assert Work.parse(text) == work
    assert Work.parse(str(work)) == work
    assert [int(n) for n in work.line.split()[1:]] == [work.count, work.depth, work.sequences]


@pytest.mark.parametrize("text", ["", "sleep 5", "prefill", "decode -3", "decode 5 @x"])
def test_no_work(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        Work.parse(text)


def test_common(tmp_path: Path) -> None:
    assert numbers("1,4,16") == [1, 4, 16]
    table = render_table(["name", "n"], [["long name", "5"], ["x", "1000"]])
    assert table.splitlines() == ["name          n", "long name     5", "x          1000"]
    write_report(tmp_path / "a" / "b.json", report("why", 3, [1], isa="avx2"))
    found = json.loads((tmp_path / "a" / "b.json").read_text())
    assert (found["question"], found["threads"], found["isa"]) == ("why", 3, "avx2")
    assert found["commit"]
    assert found["machine"]["processor"]
