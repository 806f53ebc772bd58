"""Malformed files: each gives a typed error that names the thing, before memory is taken for it."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tektra.errors import FormatError, TektraError, UnsupportedModelError
from tektra.formats.gguf_header import parse_header

BOUNDARIES = [
    *(2**31 + d for d in (-1, 0, 1)),
    *(2**32 + d for d in (-1, 0, 1)),
    *(2**61 + d for d in (-1, 0, 1)),
    *(2**63 + d for d in (-1, 0, 1)),
    *(2**64 - d for d in (32, 8, 1)),
]
MEMORY_CEILING = 1 << 20


def refuse(raw: bytes, match: str, error: type[TektraError] = FormatError) -> None:
    buffer = np.frombuffer(raw, np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            parse_header(buffer, name="bad.gguf")
        assert tracemalloc.get_traced_memory()[1] < MEMORY_CEILING
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("bad.gguf: ")
    assert type(caught.value) is error


# The head


def test_not_gguf(gguf_bytes: SimpleNamespace) -> None:
    for raw in (b"G", b"GGUE" + bytes(40), b"PK\x03\x04" + bytes(40), bytes(40)):
        refuse(raw, "not a GGUF file")


def test_versions(gguf_bytes: SimpleNamespace) -> None:
    refuse(gguf_bytes.Craft(version=1).bytes(), "version 1 of GGUF", UnsupportedModelError)
    refuse(gguf_bytes.Craft(version=4).bytes(), "version 4.*update Tektra", UnsupportedModelError)
    refuse(gguf_bytes.Craft(version=0).bytes(), "version 0", UnsupportedModelError)


@pytest.mark.parametrize("version", [2, 3])
def test_big_endian(gguf_bytes: SimpleNamespace, version: int) -> None:
    raw = gguf_bytes.Craft(version=version << 24).bytes()
    refuse(raw, "big-endian.*little-endian", UnsupportedModelError)


@pytest.mark.parametrize("count", BOUNDARIES)
def test_huge_counts(gguf_bytes: SimpleNamespace, count: int) -> None:
    refuse(gguf_bytes.Craft(num_keys=count).bytes(), f"{count} metadata keys")
    refuse(gguf_bytes.Craft(num_tensors=count).bytes(), f"{count} tensors")


def test_one_more_than_there_is(gguf_bytes: SimpleNamespace) -> None:
    key = gguf_bytes.key("k", 0, b"\x01")
    refuse(gguf_bytes.Craft([key], num_keys=2, data=bytes(200)).bytes(), "key 1 is empty")
    refuse(gguf_bytes.Craft([key], num_tensors=1, data=bytes(200)).bytes(), "tensor 0 is empty")


# Metadata


@pytest.mark.parametrize("length", BOUNDARIES)
def test_huge_strings(gguf_bytes: SimpleNamespace, length: int) -> None:
    craft, string, key = gguf_bytes.Craft, gguf_bytes.string, gguf_bytes.key
    room = bytes(64)
    refuse(craft([string("k", length) + room]).bytes(), f"key 0 has {length} bytes")
    refuse(craft([key("the.key", 8, string("v", length))]).bytes(), f"'the.key' has {length}")
    tokens = gguf_bytes.array(8, 2, string("a") + string("b", length))
    refuse(craft([key("tokens", 9, tokens)], data=room).bytes(), "item 1 of 'tokens'")
    tensor = string("t", length) + room
    refuse(craft(tensors=[tensor]).bytes(), f"tensor 0 has {length} bytes")


@pytest.mark.parametrize("item_type", [0, 4, 6, 7, 8, 9, 10])
@pytest.mark.parametrize("count", BOUNDARIES)
def test_huge_arrays(gguf_bytes: SimpleNamespace, item_type: int, count: int) -> None:
    value = gguf_bytes.array(item_type, count, bytes(64))
    raw = gguf_bytes.Craft([gguf_bytes.key("arr", 9, value)]).bytes()
    refuse(raw, f"'arr' has {count} items")


@pytest.mark.parametrize("item_type", [0, 4, 6, 7, 8, 10])
def test_arrays_beyond_the_end(gguf_bytes: SimpleNamespace, item_type: int) -> None:
    for count in (100, 1 << 26):
        value = gguf_bytes.array(item_type, count, bytes(64))
        raw = gguf_bytes.Craft([gguf_bytes.key("arr", 9, value)]).bytes()
        refuse(raw, f"{count} .*of 'arr' at byte .*left")


def test_nested_arrays(gguf_bytes: SimpleNamespace) -> None:
    value = gguf_bytes.array(0, 1, b"\x01")
    for depth in range(2, 40):
        value = gguf_bytes.array(9, 1, value)
        craft = gguf_bytes.Craft([gguf_bytes.key("deep", 9, value)])
        if depth <= 4:
            header = parse_header(craft.array(), name="x")
            expected: Any = [1]
            for _ in range(depth - 1):
                expected = [expected]
            assert header.metadata["deep"] == expected
        else:
            refuse(craft.bytes(), "'deep' nests arrays deeper than 4")


def test_nested_arrays_by_the_thousand(gguf_bytes: SimpleNamespace) -> None:
    value = gguf_bytes.array(9, 70_000, gguf_bytes.array(0, 0) * 70_000)
    refuse(gguf_bytes.Craft([gguf_bytes.key("wide", 9, value)]).bytes(), "'wide' has too many")
    # 60,000 each, and each alone is fine: the limit is on the file.
    value = gguf_bytes.array(9, 60_000, gguf_bytes.array(0, 0) * 60_000)
    keys = [gguf_bytes.key("one", 9, value), gguf_bytes.key("two", 9, value)]
    with pytest.raises(FormatError, match="'two' has too many"):
        parse_header(gguf_bytes.Craft(keys).array(), name="x")


@pytest.mark.parametrize("type_id", [13, 14, 255, 2**31, 2**32 - 1])
def test_unknown_value_type(gguf_bytes: SimpleNamespace, type_id: int) -> None:
    refuse(gguf_bytes.Craft([gguf_bytes.key("k", type_id, bytes(32))]).bytes(), f"'k'.*{type_id}")
    value = gguf_bytes.array(type_id, 1, bytes(32))
    refuse(gguf_bytes.Craft([gguf_bytes.key("k", 9, value)]).bytes(), f"'k'.*{type_id}")


def test_bools_are_0_or_1(gguf_bytes: SimpleNamespace) -> None:
    refuse(gguf_bytes.Craft([gguf_bytes.key("b", 7, b"\x02")]).bytes(), "'b' is a bool")
    value = gguf_bytes.array(7, 3, b"\x00\x01\xff")
    refuse(gguf_bytes.Craft([gguf_bytes.key("b", 9, value)]).bytes(), "'b' is a bool")


def test_keys(gguf_bytes: SimpleNamespace) -> None:
    key = gguf_bytes.key("twice", 0, b"\x01")
    refuse(gguf_bytes.Craft([key, key]).bytes(), "'twice' is there twice")
    refuse(gguf_bytes.Craft([gguf_bytes.key("", 0, b"\x01" * 9)]).bytes(), "key 0 is empty")
    refuse(gguf_bytes.Craft([gguf_bytes.key(b"\xff\xfe", 0, b"\x01")]).bytes(), "not UTF-8")
    refuse(gguf_bytes.Craft([gguf_bytes.key("k" * 65536, 0, b"\x01")]).bytes(), "at most 65535")


@pytest.mark.parametrize("alignment", [0, 1, 4, 24, 33, 2**20 + 1, 2**21, 2**31, 2**32 - 1])
def test_alignment(gguf_bytes: SimpleNamespace, alignment: int) -> None:
    key = gguf_bytes.key("general.alignment", 4, struct.pack("<I", alignment))
    refuse(gguf_bytes.Craft([key]).bytes(), f"'general.alignment' is {alignment}; .*power of two")


@pytest.mark.parametrize("type_id", [0, 5, 6, 7, 8, 9, 10])
def test_alignment_of_another_type(gguf_bytes: SimpleNamespace, type_id: int) -> None:
    value = gguf_bytes.array(4, 1, bytes(4)) if type_id == 9 else bytes(8)
    key = gguf_bytes.key("general.alignment", type_id, value)
    refuse(gguf_bytes.Craft([key]).bytes(), "'general.alignment' is of type .*UINT32")


@pytest.mark.parametrize("alignment", [8, 64, 4096, 1 << 20])
def test_good_alignment(gguf_bytes: SimpleNamespace, alignment: int) -> None:
    key = gguf_bytes.key("general.alignment", 4, struct.pack("<I", alignment))
    tensors = [gguf_bytes.tensor("a", [1], 0, 0), gguf_bytes.tensor("b", [1], 0, alignment)]
    data = bytes(alignment) + bytes(4)
    craft = gguf_bytes.Craft([key], tensors, data, alignment=alignment)
    header = parse_header(craft.array(), name="x")
    assert header.tensors[1].offset == header.data_offset + alignment
    assert header.data_offset % alignment == 0


# Tensors


@pytest.mark.parametrize("dim", BOUNDARIES)
@pytest.mark.parametrize("type_id", [0, 2, 12, 24])
def test_huge_dimensions(gguf_bytes: SimpleNamespace, dim: int, type_id: int) -> None:
    for dims in ([256, dim], [dim - dim % 256 or 256, 4], [256, dim, dim, dim]):
        raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("big", dims, type_id)], data=bytes(2048))
        refuse(raw.bytes(), r"tensor 'big' (ends at byte|has a dimension)")


def test_products_that_wrap_to_something_small(gguf_bytes: SimpleNamespace) -> None:
    for dims in ([2**32, 2**32], [2**62, 4], [2**63, 2], [2**16] * 4, [2**33, 2**31, 1, 4]):
        raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("wrap", dims)], data=bytes(64)).bytes()
        refuse(raw, "tensor 'wrap' ends at byte")


@pytest.mark.parametrize("dims", [[0], [32, 0], [0, 32], [32, 0, 2**63]])
def test_dimension_of_zero(gguf_bytes: SimpleNamespace, dims: list[int]) -> None:
    refuse(
        gguf_bytes.Craft(tensors=[gguf_bytes.tensor("z", dims)]).bytes(), "'z' has a dimension of 0"
    )


@pytest.mark.parametrize("count", [5, 255, 2**31, 2**32 - 1])
def test_too_many_dimensions(gguf_bytes: SimpleNamespace, count: int) -> None:
    entry = gguf_bytes.string("t") + struct.pack("<I", count) + bytes(8 * 5 + 12)
    refuse(gguf_bytes.Craft(tensors=[entry]).bytes(), f"'t' has {count} dimensions; at most 4")


@pytest.mark.parametrize(("type_id", "width"), [(2, 31), (2, 48), (12, 128), (8, 1), (40, 32)])
def test_width_and_block(gguf_bytes: SimpleNamespace, type_id: int, width: int) -> None:
    raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("w", [width, 4], type_id)], data=bytes(4096))
    refuse(raw.bytes(), f"'w' is {width} wide.*not a multiple")


def test_scalar_of_a_block_type(gguf_bytes: SimpleNamespace) -> None:
    raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("s", [], 2)], data=bytes(64)).bytes()
    refuse(raw, "'s' is 1 wide.*not a multiple")


def test_types(gguf_bytes: SimpleNamespace) -> None:
    def craft(type_id: int) -> bytes:
        tensors = [gguf_bytes.tensor("w", [32], type_id)]
        return bytes(gguf_bytes.Craft(tensors=tensors, data=bytes(256)).bytes())

    refuse(craft(31), "'w' has the type Q4_0_4_4", UnsupportedModelError)
    refuse(craft(4), "'w' has the type Q4_2", UnsupportedModelError)
    refuse(craft(77), "'w' has the unknown type id 77")


def test_tensor_names(gguf_bytes: SimpleNamespace) -> None:
    def craft(*names: str | bytes) -> bytes:
        tensors = [gguf_bytes.tensor(name, [8], 0, 32 * i) for i, name in enumerate(names)]
        return bytes(gguf_bytes.Craft(tensors=tensors, data=bytes(256)).bytes())

    refuse(craft("same", "same"), "'same' is there twice")
    refuse(craft(""), "tensor 0 is empty")
    refuse(craft("ok", b"\x80"), "tensor 1.*not UTF-8")


@pytest.mark.parametrize("offset", [1, 16, 31, 33])
def test_misaligned(gguf_bytes: SimpleNamespace, offset: int) -> None:
    raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("m", [8], 0, offset)], data=bytes(256))
    refuse(raw.bytes(), f"'m' starts at offset {offset}, not a multiple of 32")


@pytest.mark.parametrize("offset", [2**31, 2**63, 2**64 - 32, 256, 224 + 32])
def test_offset_past_the_end(gguf_bytes: SimpleNamespace, offset: int) -> None:
    raw = gguf_bytes.Craft(tensors=[gguf_bytes.tensor("far", [8], 0, offset)], data=bytes(256))
    refuse(raw.bytes(), "'far' ends at byte .*but the file has")


@pytest.mark.parametrize(
    "offsets", [(0, 0), (0, 32), (32, 0), (64, 32)], ids=["same", "second", "first", "both moved"]
)
def test_overlap(gguf_bytes: SimpleNamespace, offsets: tuple[int, int]) -> None:
    tensors = [gguf_bytes.tensor(f"t{i}", [16], 0, offset) for i, offset in enumerate(offsets)]
    refuse(
        gguf_bytes.Craft(tensors=tensors, data=bytes(256)).bytes(), "'t[01]' and 't[01]' overlap"
    )


def test_tensors_in_any_order_with_holes(gguf_bytes: SimpleNamespace) -> None:
    tensors = [gguf_bytes.tensor("late", [8], 0, 96), gguf_bytes.tensor("early", [8], 0, 0)]
    header = parse_header(gguf_bytes.Craft(tensors=tensors, data=bytes(128)).array(), name="x")
    assert [t.name for t in header.tensors] == ["late", "early"]
    assert header.tensors[0].offset - header.tensors[1].offset == 96


# Cut short


def test_cut_at_every_byte(small_model: bytes) -> None:
    whole = parse_header(np.frombuffer(small_model, np.uint8), name="small.gguf")
    last = max(t.offset + t.nbytes for t in whole.tensors)
    for size in range(1, last):
        with pytest.raises(FormatError, match=r"^cut\.gguf: "):
            parse_header(np.frombuffer(small_model[:size], np.uint8), name="cut.gguf")
    parse_header(np.frombuffer(small_model[:last], np.uint8), name="cut.gguf")


def test_cut_at_the_edges_of_each_tensor(small_model: bytes) -> None:
    whole = parse_header(np.frombuffer(small_model, np.uint8), name="small.gguf")
    for tensor in whole.tensors:
        for size in (tensor.offset, tensor.offset + 1, tensor.offset + tensor.nbytes - 1):
            with pytest.raises(FormatError, match=r"ends at byte \d+, but the file has"):
                parse_header(np.frombuffer(small_model[:size], np.uint8), name="x")


UNDER_A_CEILING = """
import resource, struct, sys
from pathlib import Path
from tektra.errors import FormatError
from tektra.formats import GGUFFile

path = Path(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
string = lambda text, n=None: struct.pack("<Q", len(text) if n is None else n) + text
head = lambda tensors, keys: b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)
cases = []
for n in (1 << 27, 1 << 31, 1 << 40, (1 << 64) - 1):
    cases.append(head(n, 0) + bytes(100))
    cases.append(head(0, n) + bytes(100))
    cases.append(head(0, 1) + string(b"k", n) + bytes(100))
    cases.append(head(0, 1) + string(b"k") + struct.pack("<I", 8) + string(b"v", n) + bytes(100))
    for item in range(13):
        array = struct.pack("<IIQ", 9, item, n)
        cases.append(head(0, 1) + string(b"k") + array + bytes(100))
    cases.append(head(1, 0) + string(b"t") + struct.pack("<IQIQ", 1, n, 0, 0) + bytes(100))
for case in cases:
    path.write_bytes(case)
    try:
        GGUFFile.open(path)
    except FormatError:
        continue
    sys.exit(f"was opened: {case!r}")
print("refused", len(cases))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_under_a_memory_ceiling(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", UNDER_A_CEILING, str(tmp_path / "bad.gguf")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("refused 72")
