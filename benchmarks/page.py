"""Writes docs/benchmarks.md and its charts from the files in benchmarks/results.

python -m benchmarks.page [--results FOLDER] [--docs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.plot import Bar, Row, bar_chart

__all__ = ["read_results", "render_page"]

Result = dict[str, Any]

_INTRO = Path(__file__).with_name("intro.md")


def read_results(folder: Path) -> list[Result]:
    """Reports of the scripts in this folder, by file name; other files are left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        contents = json.loads(path.read_text())
        if isinstance(contents, dict) and contents.get("question") in _SECTIONS:
            found.append({**contents, "file": path.name})
    return found


def render_page(results: Sequence[Result]) -> tuple[str, dict[str, str]]:
    """The page, and the charts that it shows by file name."""
    parts = [_INTRO.read_text()]
    charts: dict[str, str] = {}
    for question, (title, render) in _SECTIONS.items():
        reports = [r for r in results if r["question"] == question]
        if not reports:
            continue
        parts.append(f"## {title}\n")
        for report in reports:
            chart = _chart(report)
            if chart is not None:
                name = f"benchmarks-{Path(report['file']).stem}.svg"
                charts[name] = chart
                parts.append(f"![{title}: {_about(report)}]({name})\n")
            parts.append(f"{_about(report)}:\n\n{render(report)}\n")
    return "\n".join(parts), charts


def _about(report: Mapping[str, Any]) -> str:
    """Machine, commit, threads and bounds in a line."""
    facts = [report["model"]] if "model" in report else []
    facts.append(f"{report['machine']['processor']}, {report['threads']} threads")
    if report.get("isa"):
        facts.append(str(report["isa"]))
    facts.append(f"commit {report['commit']}")
    if peaks := report.get("peaks"):
        facts.append(
            f"reads {peaks['read_bytes_per_second'] / 1e9:.0f} GB/s, "
            f"{peaks['int8_per_second'] / 1e9:.0f} G int8 and "
            f"{peaks['float_per_second'] / 1e9:.0f} G float multiply-adds/s"
        )
    return ", ".join(facts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def _kernels(report: Result) -> str:
    """A row a type and shape, a column a number of rows."""
    counts = sorted({r["rows"] for r in report["results"]})
    keys = dict.fromkeys((r["type"], r["shape"]) for r in report["results"])
    shares = {(r["type"], r["shape"], r["rows"]): r for r in report["results"]}

    def cell(type_: str, shape: str, rows: int) -> str:
        r = shares.get((type_, shape, rows))
        if r is None:
            return ""
        if r["bound"] == "memory":
            return f"{r['gb_per_second']:.1f} GB/s, {r['share']:.0%}"
        return f"{r['gop_per_second']:.0f} Gop/s, {r['share']:.0%}"

    return _table(
        ["weights", "matrix", *(f"{n} row{'s' * (n > 1)}" for n in counts)],
        [[type_, shape, *(cell(type_, shape, n) for n in counts)] for type_, shape in keys],
    )


def _speed(report: Result) -> str:
    rows = [
        [
            f"{r['model']}: {r['test']}",
            f"{r['tokens_per_second']:.1f}",
            f"{r['share']:.0%}",
            f"{r['int8_share']:.0%}" if r["test"].startswith("prefill") else "",
        ]
        for r in report["results"]
    ]
    return _table(["test", "tokens/s", "of bound", "of the int8 bound of its matrices"], rows)


def _batch(report: Result) -> str:
    rows = [
        [
            f"{r['level']}, {r['sequences']}",
            f"{r['tokens_per_second']:.1f}",
            f"{r['share']:.0%}" if "share" in r else "",
        ]
        for r in report["results"]
    ]
    return _table(["level, sequences", "tokens/s of all", "of bound"], rows)


def _memory(report: Result) -> str:
    names = ("planned", "loaded", "peak_load", "peak_full", "without_model")
    rows = [
        [r["model"], *(f"{r[name] / (1 << 20):.0f}" for name in names)] for r in report["results"]
    ]
    head = ["model, MiB", "plan", "loaded", "peak of the load", "peak, full context", "no model"]
    return _table(head, rows)


def _peers(report: Result) -> str:
    names = [n for n in _PEERS if any(n in r for r in report["results"])]
    head = ["work", "Tektra", *(c for n in names for c in (_PEERS[n], "ratio"))]
    rows = []
    for r in report["results"]:
        unit = " s" if r["test"].startswith("start") else ""
        digits = 2 if unit else 1
        row = [_work_name(r["test"]), f"{r['tektra']:.{digits}f}{unit}"]
        for name in names:
            if name in r:
                row += [f"{r[name]:.{digits}f}{unit}", f"{r[f'ratio_{name}']:.2f} x"]
            else:
                row += ["", ""]
        rows.append(row)
    versions = ", ".join(f"{name} {v}" for name, v in report.get("versions", {}).items())
    return f"{_table(head, rows)}\n\nTokens/s, medians; {versions}."


def _types(report: Result) -> str:
    """A row a type, largest first: prefill and decode beside llama.cpp."""
    rows = []
    for r in sorted(report["results"], key=lambda r: -float(r["bits_per_weight"])):
        row = [r["type"], f"{r['bits_per_weight']:.2f}"]
        for kind in ("prefill", "decode"):
            found = r[kind]
            row += [
                f"{found['tektra']:.0f}",
                f"{found['llama_cpp']:.0f}",
                f"{found['ratio']:.2f} x",
            ]
        rows.append(row)
    head = ["type", "bits", "prefill 512", "llama.cpp", "ratio", "decode 32", "llama.cpp", "ratio"]
    versions = ", ".join(dict.fromkeys(r["llama_cpp_version"] for r in report["results"]))
    return (
        f"{_table(head, rows)}\n\nTokens/s of a small model whose matrices are all of that type, "
        f"medians; llama-cpp-python {versions}."
    )


_PEERS = {"llama_cpp": "llama.cpp", "mistralrs": "mistral.rs"}

_SECTIONS = {
    "peers": ("Beside other engines", _peers),
    "quant-types": ("Types of weights beside llama.cpp", _types),
    "kernels": ("Matrix kernels", _kernels),
    "speed": ("Prefill and decode", _speed),
    "batch": ("Sequences together", _batch),
    "memory": ("Memory", _memory),
}


def _chart(report: Result) -> str | None:
    if report["question"] == "peers":
        return _peers_chart(report)
    if report["question"] == "kernels":
        return _kernels_chart(report)
    return None


def _peers_chart(report: Result) -> str:
    rows = []
    for r in report["results"]:
        if "ratio_llama_cpp" not in r:
            continue
        unit = " s" if r["test"].startswith("start") else " tokens/s"
        bars = [
            Bar(
                0,
                r["ratio_llama_cpp"],
                f"{_digits(r['tektra'])}{unit}, {r['ratio_llama_cpp']:.1f} x",
            ),
            Bar(1, 1.0, f"{_digits(r['llama_cpp'])}{unit}"),
        ]
        if "mistralrs" in r:
            bars.append(Bar(2, r["mistralrs"] / r["llama_cpp"], f"{_digits(r['mistralrs'])}{unit}"))
        rows.append(Row(_work_name(r["test"]), bars))
    names = ["Tektra", "llama.cpp", "mistral.rs"]
    used = 3 if any(len(row.bars) > 2 for row in rows) else 2
    return bar_chart(
        f"{report['model']}: speed, llama.cpp = 1",
        f"{report['machine']['processor']}, {report['threads']} threads, {report['isa']}, "
        f"commit {report['commit']}; longer is faster",
        names[:used],
        rows,
        unit=" x",
        mark=1.0,
    )


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _work_name(work: str) -> str:
    """``decode 32 @64 x16`` in words."""
    found = re.fullmatch(r"(\w+ \d+)(?: @(\d+))?(?: x(\d+))?", work)
    if found is None:
        return work
    name, depth, sequences = found.groups()
    if sequences:
        return f"{sequences} sequences, {name}"
    return f"{name} after {depth}" if depth else name


def _kernels_chart(report: Result) -> str:
    counts = sorted({r["rows"] for r in report["results"]})
    wanted = [counts[0], counts[-1]] if len(counts) > 1 else counts
    shape = report["results"][0]["shape"]
    rows: dict[str, list[Bar]] = {}
    for r in report["results"]:
        if r["shape"] == shape and r["rows"] in wanted:
            unit = "GB/s" if r["bound"] == "memory" else "Gop/s"
            rate = r["gb_per_second"] if r["bound"] == "memory" else r["gop_per_second"]
            bar = Bar(
                wanted.index(r["rows"]), 100 * r["share"], f"{r['share']:.0%}, {rate:.0f} {unit}"
            )
            rows.setdefault(r["type"], []).append(bar)
    return bar_chart(
        f"Matrices of {shape}: share of what the machine can do",
        _about(report),
        [f"{n} row{'s' * (n > 1)}" for n in wanted],
        [Row(type_, bars) for type_, bars in rows.items()],
        unit=" %",
        mark=100.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    page, charts = render_page(read_results(options.results))
    for old in options.docs.glob("benchmarks-*.svg"):
        old.unlink()
    for name, chart in charts.items():
        (options.docs / name).write_text(chart)
    (options.docs / "benchmarks.md").write_text(page)
    print(f"{options.docs / 'benchmarks.md'}: {len(charts)} charts")


if __name__ == "__main__":
    main()
