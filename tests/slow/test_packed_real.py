"""The packed copy of the real model: its logits, on every instruction set that is worth it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tektra import LLM
from tektra.backends.cpu import CpuBackend, native_core
from tektra.formats.mapped_file import MappedFile

core = native_core()
pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")
ISAS = [isa for isa in core.compiled_isas() if core.runs_here(isa)] if core else []
TEXT = "The quick brown fox jumps over the lazy dog. " * 8


@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bits(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TEKTRA_PACKED_CACHE", "1G")

    def load() -> LLM:
        return LLM(smollm2_path, device=CpuBackend(isa=isa), context=512)

    with load() as llm:
        expected = llm.score(TEXT)
        assert llm.wait_packed_copy(120) == "written"
    for large_pages in (True, False):
        monkeypatch.setattr(MappedFile, "read_ahead", lambda _, value=large_pages: value)
        with load() as llm:
            assert llm.packed_copy == "used"
            assert np.array_equal(llm.score(TEXT).view(np.uint32), expected.view(np.uint32))
    (copy,) = (tmp_path / "packed").glob("*.safetensors")
    with safe_open(copy, framework="np") as file:
        assert len(list(file.keys())) == 211


def test_the_second_start_of_the_program(tmp_path: Path) -> None:
    """The first one leaves a copy before it ends; `show` and `doctor` name it."""
    folder = tmp_path / "packed"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TEKTRA_")},
        "TEKTRA_CACHE_DIR": str(tmp_path),
    }

    def tektra(*arguments: str) -> str:
        program = "from tektra.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    ask = ("run", "smollm2:135m", "Hello", "--max-tokens", "4", "--temperature", "0")
    plain = tektra(*ask, "--no-packed-cache")
    assert not folder.exists()
    assert tektra(*ask) == plain
    (copy,) = folder.glob("*.safetensors")
    written = copy.stat().st_mtime_ns
    (mark,) = folder.glob("*.used")
    used = mark.stat().st_mtime_ns
    assert tektra(*ask) == plain
    assert mark.stat().st_mtime_ns > used
    assert copy.stat().st_mtime_ns == written
    (shown,) = json.loads(tektra("show", "smollm2:135m", "--json"))["packed_copies"]
    assert shown["path"] == str(copy)
    assert shown["bytes"] == copy.stat().st_size
    assert str(copy) in tektra("show", "smollm2:135m")
    report = json.loads(tektra("doctor", "--json"))["packed"]
    assert report == {"folder": str(folder), "copies": 1, "bytes": copy.stat().st_size}
