"""docs/robustness.md names tests that are there, and all rows that a model file is held to."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "robustness.md"
ROWS = {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "D30"}


def test_named_tests_are_there() -> None:
    path, named = "", 0
    for given, test in re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", DOCUMENT.read_text("utf-8")):
        path = given or path
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"
        named += 1
    assert named > 40


def test_rows() -> None:
    rows = set(re.findall(r"^\| (\w*) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    assert rows >= ROWS
