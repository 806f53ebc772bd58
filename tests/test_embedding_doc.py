"""Runs the examples of docs/embedding.md, in order, with a tiny model in place of the real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fixtures.tiny_model import write_tiny_model

from tektra.backends.cpu import native_core

DOCUMENT = Path(__file__).parents[1] / "docs" / "embedding.md"


def test_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if native_core() is None:
        monkeypatch.setenv("TEKTRA_DEVICE", "reference")
    model = str(write_tiny_model(tmp_path / "tiny.gguf"))
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) >= 7
    names: dict[str, object] = {"__name__": "embedding"}
    for number, source in enumerate(examples):
        code = compile(source.replace('"smollm2:135m"', repr(model)), f"example {number}", "exec")
        exec(code, names)
    printed = capsys.readouterr().out
    assert "warm up 100%" in printed
    assert "there is no file" in printed
    assert "temperature" in printed
