"""`tektra run --adapter`: paths with scales, and an answer that they change."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from tests.cli.conftest import Invoke
from tests.fixtures.tiny_model import write_tiny_model
from tests.test_llm_adapters import write_adapter

from tektra.cli.options import adapter_options


def test_paths_and_scales() -> None:
    paths, scales = adapter_options(["a.gguf", "b=0.5", "c=d=-2", "e=f"])
    assert scales == {"a.gguf": 1.0, "b": 0.5, "c=d": -2.0, "e=f": 1.0}
    assert paths == {name: name for name in scales}
    assert adapter_options(None) == ({}, {})


@pytest.mark.parametrize("given", [["=1"], [""], ["a=nan"], ["a=inf"], ["a", "a=2"]])
def test_what_is_refused(given: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        adapter_options(given)


def test_an_adapter_changes_the_answer(invoke: Invoke, tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.gguf"))
    adapter = str(write_adapter(tmp_path / "a.gguf", 1))
    common = ("run", model, "hello world", "--raw", "--temperature", "0", "-n", "12")
    plain = invoke(*common)
    adapted = invoke(*common, "--adapter", adapter)
    off = invoke(*common, "--adapter", f"{adapter}=0")
    assert plain.exit_code == adapted.exit_code == off.exit_code == 0
    assert off.stdout == plain.stdout != adapted.stdout
    missing = invoke(*common, "--adapter", str(tmp_path / "none.gguf"))
    assert missing.exit_code == 1
    assert "none.gguf" in missing.stderr
