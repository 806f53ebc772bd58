"""The real model: its header damaged in every byte, and all its weights decoded."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from tektra.errors import TektraError
from tektra.formats import GGUFFile
from tektra.formats.gguf_header import parse_header

PARTS = 32


@pytest.fixture
def scratch_model(smollm2_path: Path) -> np.ndarray:
    """The model's bytes, writable; what is written stays in memory."""
    with smollm2_path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(mapped, np.uint8)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_byte_of_the_header(scratch_model: np.ndarray, part: int) -> None:
    raw = scratch_model
    accepted = refused = 0
    for at in range(part, 4096, PARTS):
        byte = int(raw[at])
        for other in {*(byte ^ (1 << bit) for bit in range(8)), 0x00, 0xFF} - {byte}:
            raw[at] = other
            try:
                parse_header(raw, name="damaged.gguf")
                accepted += 1
            except TektraError:
                refused += 1
        raw[at] = byte
    assert accepted
    assert refused


def test_all_weights(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as model:
        started = time.perf_counter()
        for name in model.tensors:
            model.dequantize(name)
        seconds = time.perf_counter() - started
        for theirs in gguf.GGUFReader(smollm2_path).tensors:
            expected = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
            ours = model.dequantize(theirs.name)
            np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))
    assert seconds < 5  # 135 million weights; about half a second on two quiet cores
