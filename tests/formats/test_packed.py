"""Packed copies: what is written is what the safetensors package reads; nothing else is taken."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open

from tektra.errors import FormatError, ModelNotFoundError
from tektra.formats.packed import ALIGNMENT, PackedFile, PackedMatrix, packed_header, packed_parts

SOURCE = "ab" * 32
LAYOUT = "v1-rows16-0123456789abcdef"
MATRICES = (
    PackedMatrix("token_embd.weight", "Q8_0", 100, 64, 7168),
    PackedMatrix('blk.0."attn"\\\u00e9\n.weight', "Q4_1", 33, 64, 128),
    PackedMatrix("blk.0.ffn_up.weight", "F16", 1, 1, 64),
)
HEADER = packed_header(SOURCE, LAYOUT, MATRICES)


def contents(matrices: Sequence[PackedMatrix] = MATRICES) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(7)
    return {m.name: random.integers(0, 256, m.num_bytes, np.uint8) for m in matrices}


def file_bytes() -> bytes:
    return b"".join(bytes(part) for part in packed_parts(HEADER, MATRICES, contents()))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def open_it(path: Path) -> PackedFile:
    return PackedFile.open(path, SOURCE, LAYOUT, MATRICES)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write(tmp_path / "copy.safetensors", file_bytes())


def test_the_safetensors_package_sees_the_same(packed: Path) -> None:
    """The independent reader: names, types, sizes, bytes, and what is said of the whole."""
    expected = contents()
    with safe_open(packed, framework="np") as file:
        assert set(file.keys()) == set(expected)
        for name, data in expected.items():
            tensor = file.get_tensor(name)
            assert tensor.dtype == np.uint8
            assert np.array_equal(tensor, data)
        about = file.metadata()
    assert about["source"] == SOURCE
    assert about["layout"] == LAYOUT
    assert about["matrix token_embd.weight"] == "Q8_0 100 x 64"


def test_what_was_written_comes_back(packed: Path) -> None:
    file = open_it(packed)
    for name, data in contents().items():
        found = file.matrices[name]
        assert np.array_equal(found, data)
        assert found.ctypes.data % ALIGNMENT == 0
        assert not found.flags.writeable
    assert file.status.st_size == packed.stat().st_size


def test_matrices_outlive_the_file_and_its_name(packed: Path) -> None:
    matrices = open_it(packed).matrices
    packed.unlink()
    assert all(np.array_equal(matrices[name], data) for name, data in contents().items())


@pytest.mark.parametrize("place", range(len(HEADER)))
def test_each_byte_of_the_header(tmp_path: Path, place: int) -> None:
    data = bytearray(file_bytes())
    data[place] ^= 1 << place % 8
    with pytest.raises(FormatError):
        open_it(write(tmp_path / "copy", bytes(data)))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 63, 64, len(HEADER) - 1, len(HEADER), -64, -1])
def test_cut_files(tmp_path: Path, length: int) -> None:
    with pytest.raises(FormatError):
        open_it(write(tmp_path / "copy", file_bytes()[:length]))


def test_more_bytes_than_there_are(packed: Path) -> None:
    with packed.open("ab") as file:
        file.write(bytes(64))
    with pytest.raises(FormatError, match="bytes, not"):
        open_it(packed)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_huge_header_lengths(tmp_path: Path, length: int) -> None:
    data = struct.pack("<Q", length) + file_bytes()[8:]
    with pytest.raises(FormatError):
        open_it(write(tmp_path / "copy", data))


def other(matrices: tuple[PackedMatrix, ...], **changes: Any) -> tuple[PackedMatrix, ...]:
    return (matrices[0]._replace(**changes), *matrices[1:])


@pytest.mark.parametrize(
    ("source", "layout", "matrices"),
    [
        ("cd" * 32, LAYOUT, MATRICES),
        (SOURCE, "v2-rows16-0123456789abcdef", MATRICES),
        (SOURCE, LAYOUT, other(MATRICES, name="another.weight")),
        (SOURCE, LAYOUT, other(MATRICES, type="Q4_0")),
        (SOURCE, LAYOUT, other(MATRICES, rows=99)),
        (SOURCE, LAYOUT, other(MATRICES, width=128)),
        (SOURCE, LAYOUT, other(MATRICES, num_bytes=7104)),
        (SOURCE, LAYOUT, MATRICES[:2]),
        (SOURCE, LAYOUT, MATRICES[::-1]),
        (SOURCE, LAYOUT, (*MATRICES, PackedMatrix("more", "F32", 1, 1, 64))),
    ],
)
def test_what_another_program_expects(
    packed: Path, source: str, layout: str, matrices: tuple[PackedMatrix, ...]
) -> None:
    with pytest.raises(FormatError):
        PackedFile.open(packed, source, layout, matrices)


def header_of(**changes: Any) -> bytes:
    """A well-formed safetensors header that says something else."""
    header = json.loads(HEADER[8:])
    for name, change in changes.items():
        header[name] = {**header[name], **change}
    text = json.dumps(header, separators=(",", ":")).encode().ljust(len(HEADER) - 8)
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 7104]},  # a hole
        {"data_offsets": [0, 7232]},  # into the next one
        {"data_offsets": [-64, 7104]},
        {"data_offsets": [2**63, 2**63 + 7168]},
        {"data_offsets": [7168, 0]},
        {"shape": [2**40, 2**40]},
        {"dtype": "F32"},
    ],
)
def test_offsets_that_make_no_sense(tmp_path: Path, change: dict[str, Any]) -> None:
    data = header_of(**{"token_embd.weight": change}) + file_bytes()[len(HEADER) :]
    with pytest.raises(FormatError):
        open_it(write(tmp_path / "copy", data))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_files_of_anything(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError):
        open_it(write(tmp_path / "copy", data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        open_it(tmp_path / "copy")
    with pytest.raises(FormatError):
        open_it(tmp_path)


@pytest.mark.parametrize(
    "matrices",
    [
        (MATRICES[0], MATRICES[0]),
        (MATRICES[0]._replace(name="__metadata__"),),
        (MATRICES[0]._replace(num_bytes=100),),
        (MATRICES[0]._replace(num_bytes=0),),
        (MATRICES[0]._replace(num_bytes=-64),),
    ],
)
def test_lists_that_cannot_be_written(matrices: tuple[PackedMatrix, ...]) -> None:
    with pytest.raises(FormatError):
        packed_header(SOURCE, LAYOUT, matrices)


def test_data_of_another_size() -> None:
    data = contents()
    data[MATRICES[1].name] = data[MATRICES[1].name][:-1]
    with pytest.raises(FormatError, match="127 bytes, not 128"):
        list(packed_parts(HEADER, MATRICES, data))


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 20)),
        max_size=8,
        unique_by=lambda item: item[0],
    )
)
def test_any_names(tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, int]]) -> None:
    matrices = [
        PackedMatrix(name, "F32", n, 16, 64 * n) for name, n in items if name != "__metadata__"
    ]
    header = packed_header(SOURCE, LAYOUT, matrices)
    data = contents(matrices)
    path = tmp_path_factory.mktemp("names") / "copy.safetensors"
    path.write_bytes(b"".join(bytes(part) for part in packed_parts(header, matrices, data)))
    found = PackedFile.open(path, SOURCE, LAYOUT, matrices).matrices
    assert all(np.array_equal(found[name], value) for name, value in data.items())
    if all(ord(c) < 0xD800 or ord(c) > 0xDFFF for name in data for c in name):
        with safe_open(path, framework="np") as file:
            assert set(file.keys()) == set(data)
