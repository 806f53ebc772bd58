"""The packed copy of the real model: its logits, on every instruction set that is worth it."""

from __future__ import annotations

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
