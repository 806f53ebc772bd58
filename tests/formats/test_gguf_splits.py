"""Split models: any part opens the whole, and parts that do not belong together are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from tektra.errors import FormatError, ModelNotFoundError
from tektra.formats import GGUFFile
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf


def tensor(index: int) -> np.ndarray:
    return np.full((2, 32), index, np.float32)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Four parts with two tensors each, written by the gguf package."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_token_list(["a", "b"])
    for index in range(8):
        writer.add_tensor(f"t{index}", tensor(index))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in paths] == [f"m-{i:05d}-of-00004.gguf" for i in range(1, 5)]
    return paths


@pytest.mark.parametrize("given", range(4))
def test_any_part_opens_all(parts: list[Path], given: int) -> None:
    with GGUFFile.open(parts[given]) as model:
        assert model.paths == tuple(parts)
        assert model.path == parts[0]
        assert model.file_bytes == sum(path.stat().st_size for path in parts)
        assert list(model.tensors) == [f"t{index}" for index in range(8)]
        assert [info.file for info in model.tensors.values()] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert model.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
        for index in range(8):
            assert (model.dequantize(f"t{index}") == tensor(index)).all()


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[1].unlink()
    parts[3].unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        GGUFFile.open(parts[2])
    assert "m-00002-of-00004.gguf, m-00004-of-00004.gguf" in str(caught.value)
    assert "2 of the 4 files" in str(caught.value)


def test_part_under_a_wrong_name(parts: list[Path]) -> None:
    shutil.copy(parts[0], parts[2])
    with pytest.raises(FormatError, match="says inside that it is split 1 of 4"):
        GGUFFile.open(parts[2])
    with pytest.raises(FormatError, match=r"m-00003-of-00004.*split 1 of 4"):
        GGUFFile.open(parts[0])


def test_part_with_a_name_that_says_nothing(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("model.gguf"))
    with pytest.raises(FormatError, match=r"rename it to the form NAME-00001-of-00004\.gguf"):
        GGUFFile.open(renamed)


def test_whole_model_named_as_a_part(tmp_path: Path, small_model: bytes) -> None:
    path = tmp_path / "x-00001-of-00002.gguf"
    path.write_bytes(small_model)
    with pytest.raises(FormatError, match="its metadata says it is whole"):
        GGUFFile.open(path)
    path = path.rename(tmp_path / "x-00001-of-00001.gguf")
    with GGUFFile.open(path) as model:
        assert model.paths == (path,)


def rewrite_part(path: Path, no: int, count: int, total: int, names: list[str]) -> None:
    """A part with the given split keys, by the gguf package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.no", no)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", total)
    for name in names:
        writer.add_tensor(name, tensor(0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_tensor_in_two_parts(parts: list[Path]) -> None:
    rewrite_part(parts[2], 2, 4, 8, ["t0", "t5"])
    with pytest.raises(FormatError, match=r"'t0' is both in m-00001.* and m-00003"):
        GGUFFile.open(parts[0])


@pytest.mark.parametrize(("total", "names"), [(9, ["t4", "t5"]), (8, ["t4"])])
def test_wrong_total(parts: list[Path], total: int, names: list[str]) -> None:
    rewrite_part(parts[2], 2, 4, total, names)
    with pytest.raises(FormatError, match=r"says that the model has \d tensors"):
        GGUFFile.open(parts[0])


@pytest.mark.parametrize(("no", "count"), [(3, 4), (2, 3), (2, 5), (0, 4)])
def test_other_part_claims_another_place(parts: list[Path], no: int, count: int) -> None:
    rewrite_part(parts[2], no, count, 8, ["t4", "t5"])
    with pytest.raises(FormatError, match=rf"split {no + 1} of {count}"):
        GGUFFile.open(parts[0])


@pytest.mark.parametrize("key", ["split.no", "split.tensors.count"])
def test_split_key_of_the_wrong_type(tmp_path: Path, key: str) -> None:
    # Written as one plain file, for the writer keeps the split keys to itself.
    writer = gguf.GGUFWriter(tmp_path / "w-00001-of-00002.gguf", "llama")
    writer.add_uint16("split.count", 2)
    if key == "split.no":
        writer.add_string(key, "0")
    else:
        writer.add_uint16("split.no", 0)
        writer.add_int32(key, -1)
        rewrite_part(tmp_path / "w-00002-of-00002.gguf", 1, 2, 1, ["b"])
    writer.add_tensor("a", tensor(1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FormatError, match=rf"'{key}' is .*must be an integer"):
        GGUFFile.open(tmp_path / "w-00001-of-00002.gguf")


def test_split_by_our_writer(tmp_path: Path) -> None:
    tensors = [(f"t{i}", (2, 32), GGMLType.F32, tensor(i)) for i in range(5)]
    metadata = {"general.architecture": "llama", "general.alignment": Typed(64, "u32")}
    paths = write_gguf(tmp_path / "s.gguf", metadata, tensors, split_max_bytes=512)
    assert [path.name for path in paths] == [f"s-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    with GGUFFile.open(paths[1]) as model:
        assert [info.file for info in model.tensors.values()] == [0, 0, 1, 1, 2]
        for index in range(5):
            assert (model.dequantize(f"t{index}") == tensor(index)).all()
    with GGUFFile.open(paths[1]) as model:
        sources = [
            (t.name, t.shape, t.type, model.tensor_bytes(t.name)) for t in model.tensors.values()
        ]
        whole = write_gguf(tmp_path / "whole.gguf", model.typed_metadata, sources)
        with GGUFFile.open(whole[0]) as joined:
            assert list(joined.metadata) == list(metadata)
            assert list(joined.tensors) == list(model.tensors)
    for index, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        assert reader.alignment == 64
        assert reader.fields["split.no"].contents() == index
        assert reader.fields["split.count"].contents() == 3
        assert reader.fields["split.tensors.count"].contents() == 5
        for theirs in reader.tensors:
            assert (theirs.data == int(theirs.name[1:])).all()
