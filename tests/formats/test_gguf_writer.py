"""Writing: what we write is read alike by the gguf package and by us, and never half there."""

from __future__ import annotations

import math
import os
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tektra.errors import CancelledError, FormatError, InvalidParameterError
from tektra.formats import GGUFFile
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import GGUFArray, Typed, ValueType
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.progress import CancelToken, ProgressEvent

F32 = GGMLType.F32


def one(name: str = "w", shape: tuple[int, ...] = (2, 32), **change: Any) -> TensorSource:
    data = change.get("data", bytes(4 * math.prod(shape)))
    return (name, shape, change.get("type", F32), data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_read_alike(path: Path) -> None:
    rng = np.random.default_rng(2)
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "a.bool": True,
        "a.u32": 2**32 - 1,
        "a.i32": -5,
        "a.u64": 2**32,
        "a.i64": -(2**31) - 1,
        "a.float": 0.1,
        "a.str": "text \u4e2d\U0001f600",
        "a.typed": Typed(5, "u8"),
        "a.f64": Typed(0.1, "f64"),
        "list.bool": [True, False],
        "list.i32": [1, -2],
        "list.u32": [1, 2**31],
        "list.i64": [-1, 2**31],
        "list.float": [1, 2.5],
        "list.str": ["a", "", "\u00e9"],
        "list.empty": Typed([], "str"),
        "list.typed": Typed([1, 2], "u16"),
        "list.numpy": np.array([1.5, -2.5], np.float32),
        "list.numpy8": np.array([1, -2], np.int8),
    }
    types = {
        "a.u32": "UINT32",
        "a.i32": "INT32",
        "a.u64": "UINT64",
        "a.i64": "INT64",
        "a.float": "FLOAT32",
        "a.typed": "UINT8",
        "a.f64": "FLOAT64",
        "list.bool": "BOOL",
        "list.i32": "INT32",
        "list.u32": "UINT32",
        "list.i64": "INT64",
        "list.float": "FLOAT32",
        "list.str": "STRING",
        "list.typed": "UINT16",
        "list.numpy": "FLOAT32",
        "list.numpy8": "INT8",
    }
    tensors: dict[str, tuple[np.ndarray, GGMLType]] = {
        "token_embd.weight": (rng.standard_normal((4, 33), np.float32), F32),
        "half": (rng.standard_normal(5).astype(np.float16), GGMLType.F16),
        "q4": (rng.integers(0, 256, (3, 2, 18), np.uint8), GGMLType.Q4_0),
        "four": (rng.standard_normal((2, 3, 4, 5), np.float32), F32),
    }
    shapes: dict[str, tuple[int, ...]] = {"q4": (3, 2, 32)}
    sources = [
        (name, shapes.get(name, data.shape), ggml_type, data)
        for name, (data, ggml_type) in tensors.items()
    ]
    assert write_gguf(path, metadata, sources) == (path,)

    reader = gguf.GGUFReader(path)
    with GGUFFile.open(path) as model:
        assert list(model.metadata) == list(metadata)
        for key, given_value in metadata.items():
            value = given_value.value if isinstance(given_value, Typed) else given_value
            value = value.tolist() if isinstance(value, np.ndarray) else value
            if key == "a.float":
                value = float(np.float32(value))
            assert model.metadata[key] == value, key
            field = reader.fields[key]
            if key != "list.empty":  # the package's contents() fails on empty arrays
                assert field.contents() == value, key
            if key in types:
                assert field.types[-1].name == types[key]
        assert [t.name for t in reader.tensors] == list(model.tensors) == list(tensors)
        for theirs in reader.tensors:
            data, ggml_type = tensors[theirs.name]
            assert theirs.tensor_type.value == ggml_type.value
            assert tuple(reversed(theirs.shape.tolist())) == shapes.get(theirs.name, data.shape)
            assert theirs.data.tobytes() == data.tobytes()
            assert model.tensor_bytes(theirs.name).tobytes() == data.tobytes()
            assert model.tensors[theirs.name].offset % 32 == 0
    assert path.stat().st_size % 32 == 0


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **{
        f"{sign}{bits}": st.integers(
            *((0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        )
        for sign in "ui"
        for bits in (8, 16, 32, 64)
    },
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "str": st.text(st.characters(codec="utf-8"), max_size=40),
}
typed_values = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda name: (SCALARS[name] | st.lists(SCALARS[name], min_size=1, max_size=9)).map(
        lambda value: Typed(value, name)
    )
)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda key: not key.startswith(("split.", "general.", "GGUF."))
)


@given(
    st.dictionaries(keys, typed_values, max_size=8),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), max_size=6),
    st.sampled_from([None, 8, 32, 256]),
    st.sampled_from([None, 1, 400]),
)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_anything_is_read_alike(
    path: Path,
    metadata: dict[str, Typed],
    shapes: list[tuple[int, int]],
    alignment: int | None,
    split: int | None,
) -> None:
    arrays = [np.arange(math.prod(shape), dtype=np.float32).reshape(shape) for shape in shapes]
    sources = [(f"t{i}", a.shape, F32, a) for i, a in enumerate(arrays)]
    paths = write_gguf(path, metadata, sources, alignment=alignment, split_max_bytes=split)
    with GGUFFile.open(paths[-1]) as model:
        for key, typed in metadata.items():
            assert model.metadata[key] == typed.value
        for i, array in enumerate(arrays):
            assert (model.dequantize(f"t{i}") == array).all()
    reader = gguf.GGUFReader(paths[0])
    assert reader.alignment == (alignment or 32)
    for key, typed in metadata.items():
        assert reader.fields[key].contents() == typed.value
        assert reader.fields[key].types[-1].value == typed.type
    found = [t.name for p in paths for t in gguf.GGUFReader(p).tensors]
    assert found == [f"t{i}" for i in range(len(arrays))]


def test_copy_keeps_exact_types(path: Path, tmp_path: Path, small_model: bytes) -> None:
    source_path = tmp_path / "source.gguf"
    source_path.write_bytes(small_model)
    source = GGUFFile.open(source_path)
    with pytest.raises(FormatError, match="'nested' is an array of arrays"):
        _ = source.typed_metadata
    writer = gguf.GGUFWriter(source_path, "llama")
    writer.add_uint8("u8", 1)
    writer.add_float64("f64", 0.1)
    writer.add_token_types([1, 2, 3])
    writer.add_token_list([b"\xff\x00", b"b", b"c"])
    writer.add_custom_alignment(128)
    writer.add_tensor("w", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile.open(source_path) as source:
        sources = [
            (t.name, t.shape, t.type, source.tensor_bytes(t.name)) for t in source.tensors.values()
        ]
        write_gguf(path, source.typed_metadata, sources)
        with GGUFFile.open(path) as copy:
            assert copy.tensor_bytes("w").tobytes() == source.tensor_bytes("w").tobytes()
            assert copy._header.types == source._header.types
            assert dict(copy.metadata) == dict(source.metadata)
            tokens = copy.metadata["tokenizer.ggml.tokens"]
            assert isinstance(tokens, GGUFArray)
            assert tokens.bytes_list() == [b"\xff\x00", b"b", b"c"]


def test_array_of_a_file_as_plain_value(path: Path, tmp_path: Path, small_model: bytes) -> None:
    source_path = tmp_path / "source.gguf"
    source_path.write_bytes(small_model)
    with GGUFFile.open(source_path) as source:
        metadata: dict[str, Any] = {
            f"array.{i}": source.metadata[f"array.{i}"] for i in (0, 3, 7, 8, 12)
        }
        metadata["widened"] = Typed(source.metadata["array.3"], "i64")
        write_gguf(path, metadata, [])
        with GGUFFile.open(path) as copy:
            for key, value in metadata.items():
                expected = value.value.tolist() if isinstance(value, Typed) else value.tolist()
                assert copy.metadata[key] == expected
            assert copy.metadata["widened"].element_type is ValueType.INT64  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": 1},
        b"bytes",
        [],
        [1, "a"],
        [True, 1],
        [[1]],
        [None],
        2**64,
        -(2**63) - 1,
        [-1, 2**63],
        1e300,
        np.ones((2, 2)),
        np.array(["a"]),
        np.array([1j]),
        Typed(256, "u8"),
        Typed(-1, "u32"),
        Typed(1.0, "i32"),
        Typed(True, "i32"),
        Typed(1, "bool"),
        Typed("1", "i32"),
        Typed(1, "str"),
        Typed([1, 2.5], "i32"),
        Typed([1, 70000], "u16"),
        Typed([1e300], "f32"),
        Typed([10**400], "f64"),
        Typed(["a", 1], "str"),
        Typed([True], "f32"),
        Typed([[1]], "i32"),
        Typed([], ValueType.ARRAY),
        Typed(1, ValueType.ARRAY),
    ],
    ids=repr,
)
def test_values_that_cannot_be_stored(path: Path, value: Any) -> None:
    with pytest.raises(FormatError, match=r"'the\.key'"):
        write_gguf(path, {"the.key": value}, [])
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("key", ["", "k" * 65536, "\ud800"])
def test_keys_that_cannot_be(path: Path, key: str) -> None:
    with pytest.raises(FormatError, match="metadata key"):
        write_gguf(path, {key: 1}, [])


def test_unknown_type_name() -> None:
    with pytest.raises(ValueError, match="unknown metadata type 'int'; known: u8"):
        Typed(1, "int")


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ([one("a"), one("a")], "'a' is given twice"),
        ([one("")], "1 to 63 bytes"),
        ([one("n" * 64)], "1 to 63 bytes"),
        ([one("\ud800")], "not valid Unicode"),
        ([one(shape=(1, 1, 1, 1, 32))], "up to 4 dimensions"),
        ([one(shape=(0, 32))], "up to 4 dimensions of 1 or more"),
        ([one(type=GGMLType.Q4_0, shape=(2, 33))], "tensor 'w'.*multiple of 32"),
        ([one(data=bytes(255))], "'w' has 255 bytes; its shape and type ask for 256"),
        ([one(data=lambda: bytes(257))], "'w' has 257 bytes"),
        ([one(data=np.zeros((32, 2), np.float32).T)], "'w' is not contiguous"),
    ],
)
def test_bad_tensors_leave_nothing(path: Path, tensors: list[TensorSource], match: str) -> None:
    with pytest.raises(FormatError, match=match):
        write_gguf(path, {}, tensors)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("alignment", [0, 4, 12, 2**21, -32, True, 32.0])
def test_bad_alignment(path: Path, alignment: Any) -> None:
    with pytest.raises(InvalidParameterError, match="alignment: must be a power of two"):
        write_gguf(path, {}, [], alignment=alignment)


def test_alignment_and_metadata_disagree(path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="is 32, but the metadata says"):
        write_gguf(path, {"general.alignment": 64}, [], alignment=32)
    with pytest.raises(InvalidParameterError, match="split_max_bytes: must be 1 or more"):
        write_gguf(path, {}, [], split_max_bytes=0)
    with pytest.raises(FormatError, match=r"'split\.count' cannot be set"):
        write_gguf(path, {"split.count": 2}, [])


def test_replaces_whole_or_not_at_all(path: Path) -> None:
    path.write_bytes(b"the old file")

    def fails() -> bytes:
        assert path.read_bytes() == b"the old file"
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        write_gguf(path, {}, [one("a"), one("b", data=fails)])
    assert path.read_bytes() == b"the old file"
    assert list(path.parent.iterdir()) == [path]
    write_gguf(path, {}, [one("a")])
    with GGUFFile.open(path) as model:
        assert list(model.tensors) == ["a"]
    assert list(path.parent.iterdir()) == [path]


def test_failure_in_the_second_part_leaves_nothing(path: Path) -> None:
    def fails() -> bytes:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        write_gguf(path, {}, [one("a"), one("b", data=fails)], split_max_bytes=256)
    assert not list(path.parent.iterdir())


def test_is_on_disk_before_it_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watch_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watch_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    write_gguf(path, {}, [one("a"), one("b")], split_max_bytes=256)
    expected = ["file", "file", "rename", "rename"]
    assert calls == expected + (["folder"] if os.name == "posix" else [])


def test_one_tensor_at_a_time(path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def source(index: int) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            assert not any(ref() is not None for ref in alive)
            data = np.full((2, 32), index, np.float32)
            alive.append(weakref.ref(data))
            return data

        return make

    write_gguf(path, {}, [one(f"t{i}", data=source(i)) for i in range(5)])
    assert len(alive) == 5
    with GGUFFile.open(path) as model:
        assert [model.dequantize(f"t{i}")[0, 0] for i in range(5)] == [0, 1, 2, 3, 4]


def test_progress_and_cancel(path: Path) -> None:
    events: list[ProgressEvent] = []
    write_gguf(path, {}, [one("a"), one("b")], progress=events.append)
    assert [(e.stage, e.item, e.done, e.total, e.unit) for e in events] == [
        ("write", "a", 256, 512, "bytes"),
        ("write", "b", 512, 512, "bytes"),
    ]
    path.unlink()
    cancel = CancelToken()
    with pytest.raises(CancelledError):
        write_gguf(
            path, {}, [one("a"), one("b")], progress=lambda _: cancel.cancel(), cancel=cancel
        )
    assert not list(path.parent.iterdir())


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_gguf(tmp_path / "none" / "model.gguf", {}, [one()])
