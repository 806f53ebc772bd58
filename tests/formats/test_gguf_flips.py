"""Damaged bytes: a header with any byte changed gives a typed error or a model that can be read."""

from __future__ import annotations

import mmap
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tektra.errors import TektraError
from tektra.formats.gguf_header import GGUFHeader, parse_header
from tektra.formats.gguf_values import GGUFArray

MEMORY_CEILING = 4 << 20


def use(raw: np.ndarray) -> bool:
    """Parses a header and reads all that it leads to; whether it was accepted."""
    try:
        header = parse_header(raw, name="damaged.gguf")
    except TektraError as refusal:
        message = str(refusal)
    else:
        read_all(raw, header)
        return True
    assert message.startswith("damaged.gguf: ")
    return False


def read_all(raw: np.ndarray, header: GGUFHeader) -> None:
    for value in header.metadata.values():
        if isinstance(value, GGUFArray):
            items = value.tolist()
            assert len(items) == len(value)
    for tensor in header.tensors:
        assert raw[tensor.offset : tensor.offset + tensor.nbytes].size == tensor.nbytes


def variants(byte: int) -> list[int]:
    return sorted({*(byte ^ (1 << bit) for bit in range(8)), 0x00, 0xFF} - {byte})


def flip_all(raw: np.ndarray, places: range) -> int:
    """Sets each byte to each of its variants; how many of the files were accepted."""
    accepted = 0
    for at in places:
        byte = int(raw[at])
        for other in variants(byte):
            raw[at] = other
            accepted += use(raw)
        raw[at] = byte
    return accepted


@pytest.mark.parametrize("quarter", range(4))
def test_every_byte_of_a_small_model(small_model: bytes, quarter: int) -> None:
    raw = np.frombuffer(small_model, np.uint8).copy()
    accepted = flip_all(raw, range(quarter, min(4096, raw.size), 4))
    assert accepted  # values may be anything; were nothing accepted, nothing would be tested


def test_some_bytes_of_a_real_model(smollm2_path: Path) -> None:
    """All bytes of it are in the slow tests."""
    with smollm2_path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writes stay in memory
    raw = np.frombuffer(mapped, np.uint8)
    rng = random.Random(7)
    for _ in range(200):
        at = rng.randrange(4096)
        byte = int(raw[at])
        raw[at] = rng.choice(variants(byte))
        with suppress(TektraError):
            parse_header(raw, name="damaged.gguf")
        raw[at] = byte


def test_damage_takes_no_memory(small_model: bytes) -> None:
    raw = np.frombuffer(small_model, np.uint8).copy()
    use(raw)
    tracemalloc.start()
    try:
        flip_all(raw, range(5, min(4096, raw.size), 13))
        assert tracemalloc.get_traced_memory()[1] < MEMORY_CEILING
    finally:
        tracemalloc.stop()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_several_bytes(small_model: bytes, data: st.DataObject) -> None:
    raw = np.frombuffer(small_model, np.uint8).copy()
    places = st.integers(8, raw.size - 1)
    for at, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        raw[at] = byte
    use(raw)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_garbage_after_the_version(tail: bytes) -> None:
    use(np.frombuffer(b"GGUF\x03\x00\x00\x00" + tail, np.uint8))


@given(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_after_the_counts(tensors: int, keys: int, tail: bytes) -> None:
    counts = tensors.to_bytes(8, "little") + keys.to_bytes(8, "little")
    use(np.frombuffer(b"GGUF\x03\x00\x00\x00" + counts + tail, np.uint8))


def test_pieces_cut_out_and_doubled(small_model: bytes) -> None:
    rng = random.Random(3)
    for _ in range(500):
        begin = rng.randrange(4, len(small_model))
        end = min(len(small_model), begin + rng.randrange(1, 60))
        piece = small_model[begin:end]
        middle = b"" if rng.random() < 0.5 else piece * 2
        use(np.frombuffer(small_model[:begin] + middle + small_model[end:], np.uint8))
