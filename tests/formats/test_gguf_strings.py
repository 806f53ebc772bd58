"""The walk over string arrays, held against a walk one string at a time."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tektra.formats import gguf_strings
from tektra.formats.gguf_strings import StringArrayOverrunError, string_starts, strings_end


def pack(strings: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(item)) + item for item in strings)


def plain_starts(raw: bytes, start: int, count: int) -> tuple[list[int], int] | None:
    """The obvious walk; None where it leaves the buffer."""
    starts, pos = [], start
    for _ in range(count):
        if pos + 8 > len(raw):
            return None
        starts.append(pos)
        pos += 8 + struct.unpack_from("<Q", raw, pos)[0]
        if pos > len(raw):
            return None
    return starts, pos


def check(raw: bytes, start: int, count: int) -> None:
    expected = plain_starts(raw, start, count)
    buffer = np.frombuffer(raw, np.uint8)
    if expected is None:
        with pytest.raises(StringArrayOverrunError):
            strings_end(buffer, start, count)
        with pytest.raises(StringArrayOverrunError):
            string_starts(buffer, start, count)
    else:
        starts, end = string_starts(buffer, start, count)
        assert starts.tolist() == expected[0]
        assert end == expected[1] == strings_end(buffer, start, count)


nasty = st.one_of(
    st.binary(max_size=20),
    st.just(b""),
    st.integers(0, 40).map(bytes),  # runs of zeros look like length fields
    st.integers(250, 600).map(lambda n: b"z" * n),
    st.integers(0, 9).map(lambda n: struct.pack("<Q", n)),  # text that is a length field
    st.tuples(st.binary(max_size=9), st.integers(1, 9)).map(lambda p: p[0] + bytes(p[1])),
)


@given(
    st.binary(max_size=9), st.lists(nasty, max_size=30), st.integers(1, 12), st.binary(max_size=40)
)
@settings(max_examples=200, deadline=None)
def test_equals_plain_walk(before: bytes, strings: list[bytes], times: int, after: bytes) -> None:
    raw = before + pack(strings * times) + after
    check(raw, len(before), len(strings) * times)


@given(st.lists(nasty, min_size=1, max_size=30), st.integers(1, 12), st.data())
@settings(max_examples=200, deadline=None)
def test_cut_short_is_noticed(strings: list[bytes], times: int, data: st.DataObject) -> None:
    raw = pack(strings * times)
    check(raw[: data.draw(st.integers(0, len(raw) - 1))], 0, len(strings) * times)


@given(st.binary(min_size=1000, max_size=4000), st.integers(65, 400))
@settings(max_examples=100, deadline=None)
def test_garbage(raw: bytes, count: int) -> None:
    check(raw, 0, count)


@pytest.mark.parametrize("seed", range(4))
def test_many_strings_over_several_windows(seed: int) -> None:
    rng = random.Random(seed)
    kinds: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randint(0, 12)),
        lambda: bytes(rng.randint(1, 20)),
        lambda: b"",
        lambda: b"y" * rng.choice([254, 255, 256, 257, 70_000 if rng.random() < 0.01 else 300]),
        lambda: struct.pack("<Q", rng.randint(0, 30)),
    ]
    share = [200, 1, 1, 1, 1] if seed < 2 else [1, 1, 1, 1, 1]
    strings = [rng.choices(kinds, share)[0]() for _ in range(30_000)]
    raw = pack(strings)
    assert len(raw) > 2 * gguf_strings._WINDOW
    check(raw, 0, len(strings))
    check(raw + b"\x00" * 7, 0, len(strings) + 1)


@pytest.mark.parametrize("count", [10, 64, 65, 100, 500])
def test_cut_within_the_last_strings(count: int) -> None:
    raw = pack([b"short"] * (count - 1) + [b"the last"])
    for size in range(len(raw) - 30, len(raw) + 1):
        check(raw[:size], 0, count)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**64 - 8, 2**31, 2**32])
def test_huge_length_names_the_string(length: int) -> None:
    raw = pack([b"ab"] * 100) + struct.pack("<Q", length) + b"x" * 50
    with pytest.raises(StringArrayOverrunError) as caught:
        strings_end(np.frombuffer(raw, np.uint8), 0, 101)
    assert (caught.value.index, caught.value.offset) == (100, 1000)
