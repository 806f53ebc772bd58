"""`tektra run --context-policy`: an answer that goes on, and a word about what gave way."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.conftest import Invoke
from tests.fixtures.tiny_model import write_tiny_model


def test_an_answer_goes_on(invoke: Invoke, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf", context=256)
    common = (
        "run",
        str(model),
        "hello world, hello there",
        "--raw",
        "--temperature",
        "0",
        "--context",
        "48",
    )
    more = (*common, "-n", "120", "--ignore-eos")
    slid = invoke(*more, "--context-policy", "slide:4")
    assert slid.exit_code == 0
    assert re.search(r"the context is full: \d+ tokens gave way", slid.stderr)
    stopped = invoke(*more)
    assert "gave way" not in stopped.stderr
    assert slid.stdout.startswith(stopped.stdout.rstrip("\n"))
    wrong = invoke(*common, "--context-policy", "drop")
    assert wrong.exit_code == 2
    assert "slide:N" in wrong.stderr
