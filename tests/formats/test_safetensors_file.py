"""Safetensors headers, sound and damaged, beside the safetensors package on the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from tests.fixtures.checkpoint_files import write_safetensors

from tektra.errors import TektraError
from tektra.formats.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile

F32: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
U8: dict[str, Any] = {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]}


def crafted(header: str | dict[str, Any], data: bytes = bytes(28)) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8")
    return len(text).to_bytes(8, "little") + text + data


def ours(data: bytes, path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """What is in a file; None where it is refused."""
    path.write_bytes(data)
    try:
        file = SafetensorsFile.open(path)
    except TektraError:
        return None
    return {
        name: (t.dtype, t.shape, file.tensor_bytes(name).tobytes())
        for name, t in file.tensors.items()
    }


def theirs(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in entries}


SOUND = {
    "two": {"a": F32, "b": U8},
    "other order": {"b": U8, "a": F32},
    "metadata": {"__metadata__": {"format": "pt"}, "a": F32, "b": U8},
    "empty tensor": {
        "a": F32,
        "b": U8,
        "c": {"dtype": "F32", "shape": [0], "data_offsets": [28] * 2},
    },
    "scalar": {"a": F32, "b": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]}},
    "8-bit floats": {"a": F32, "b": {**U8, "dtype": "F8_E4M3"}},
}
REFUSED: dict[str, bytes] = {
    "overlap": crafted({"a": F32, "b": {**U8, "data_offsets": [20, 24]}}, bytes(24)),
    "the same place": crafted({"a": F32, "b": F32}, bytes(24)),
    "hole": crafted({"a": F32, "b": {**U8, "data_offsets": [28, 32]}}, bytes(32)),
    "hole at the start": crafted({"b": {**U8, "data_offsets": [4, 8]}}, bytes(8)),
    "trailing bytes": crafted({"a": F32, "b": U8}, bytes(29)),
    "missing bytes": crafted({"a": F32, "b": U8}, bytes(27)),
    "duplicate key": crafted(f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}', bytes(24)),
    "wrong size": crafted({"a": {**F32, "shape": [2, 2]}, "b": U8}),
    "end before begin": crafted({"a": {**F32, "data_offsets": [24, 0]}, "b": U8}),
    "sizes that wrap": crafted({"a": {**F32, "shape": [2**32, 2**32, 3]}, "b": U8}),
    "size of 2^64": crafted({"a": {**F32, "shape": [2**64]}, "b": U8}),
    "offset of 2^64": crafted({"a": F32, "b": {**U8, "data_offsets": [24, 2**64]}}),
    "negative size": crafted({"a": {**F32, "shape": [-2, -3]}, "b": U8}),
    "fraction": crafted({"a": {**F32, "shape": [2.0, 3]}, "b": U8}),
    "bool": crafted({"a": {**F32, "shape": [True, 6]}, "b": U8}),
    "unknown type": crafted({"a": {**F32, "dtype": "F33"}, "b": U8}),
    "no type": crafted({"a": {"shape": [2, 3], "data_offsets": [0, 24]}, "b": U8}),
    "a list": crafted("[]"),
    "not an object": crafted({"a": 5}),
    "not JSON": crafted('{"a": '),
    "leading space": crafted(" {}", b""),
    "numbers as metadata": crafted({"__metadata__": {"a": 1}, "a": F32, "b": U8}),
    "lone surrogate": crafted(
        '{"\\ud800": ' + json.dumps({**U8, "data_offsets": [0, 4]}) + "}", bytes(4)
    ),
    "no header": b"",
    "seven bytes": bytes(7),
    "long header": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "header past the end": (100).to_bytes(8, "little") + b"{}",
    "header of 2^64 - 1": b"\xff" * 8 + b"{}",
    "deep": crafted("{" + '"a":{' * 100_000, b""),
}
STRICTER = {"duplicate key", "leading space"}
"""What the package lets pass: of two it takes one, and what the specification excludes."""


@pytest.mark.parametrize("name", SOUND)
def test_sound(name: str, tmp_path: Path) -> None:
    data = crafted(SOUND[name], bytes(range(28)))
    found = ours(data, tmp_path / "a.safetensors")
    assert found is not None
    assert found == theirs(data)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    assert (theirs(REFUSED[name]) is None) is (name not in STRICTER)
    assert ours(REFUSED[name], tmp_path / "a.safetensors") is None


def test_every_cut_and_flip(tmp_path: Path) -> None:
    """Never laxer than the safetensors package, and of one mind about what both accept."""
    data = crafted({"__metadata__": {"format": "pt"}, "a": F32, "b": U8}, bytes(range(28)))
    path = tmp_path / "a.safetensors"
    for end in range(len(data)):
        assert ours(data[:end], path) is None
    accepted = 0
    for at in range(len(data) - 28):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            found = ours(bytes(flipped), path)
            if found is not None:
                accepted += 1
                assert found == theirs(bytes(flipped))
    assert 0 < accepted < 8 * (len(data) - 28)


def test_what_the_package_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, NDArray[Any]] = {
        "x.weight": rng.normal(size=(5, 7)).astype(np.float32),
        "y": rng.normal(size=9).astype(np.float16),
        "z": rng.integers(-9, 9, (2, 2, 2)),
    }
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    file = SafetensorsFile.open(path)
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(arrays)
    for name, array in arrays.items():
        assert file.tensors[name].shape == array.shape
        assert file.tensor_bytes(name).tobytes() == array.tobytes()


def test_the_test_writer_writes_safetensors(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    path = write_safetensors(tmp_path / "a.safetensors", {"a": array}, {"k": "v"})
    assert (safetensors.numpy.load_file(path)["a"] == array).all()


def test_tensors_are_not_copied(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(64, np.float32)})
    file = SafetensorsFile.open(path)
    view = file.tensor_bytes("a")
    assert not view.flags.writeable
    assert np.shares_memory(view, file.tensor_bytes("a"))
    file.close()
    assert view.view(np.float32).sum() == 64
    with pytest.raises(ValueError, match="closed"):
        file.tensor_bytes("a")
