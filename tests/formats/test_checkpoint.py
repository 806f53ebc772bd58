"""Model directories: shards and their index, what is missing or too much, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.checkpoint_files import write_checkpoint, write_safetensors

from tektra.errors import FormatError, ModelNotFoundError, TektraError, UnsupportedModelError
from tektra.formats.checkpoint import INDEX, Checkpoint

TENSORS = {f"t{i}": np.full((2, 2), i, np.float32) for i in range(5)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "dir", {"a": 1}, TENSORS, shards=2)


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    for tensor, file in changes.items():
        if file is None:
            del index["weight_map"][tensor]
        else:
            index["weight_map"][tensor] = file
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards(shards: int, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "d", {"a": 1}, TENSORS, shards=shards)
    checkpoint = Checkpoint.open(folder)
    assert len(checkpoint.paths) == shards
    assert checkpoint.config == {"a": 1}
    for name, array in TENSORS.items():
        assert checkpoint.tensor_bytes(name).tobytes() == array.tobytes()


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"1 of the 2 files .*model-00002-of-00002"):
        Checkpoint.open(folder)


def test_an_extra_shard(folder: Path) -> None:
    write_safetensors(folder / "model-00003-of-00003.safetensors", {"x": TENSORS["t1"]})
    with pytest.raises(FormatError, match=r"does not name 'model-00003-of-00003"):
        Checkpoint.open(folder)


def test_a_tensor_that_its_shard_lacks(folder: Path) -> None:
    change_index(folder, more="model-00001-of-00002.safetensors")
    with pytest.raises(FormatError, match=r"has the tensors 'more', which it has not"):
        Checkpoint.open(folder)


def test_a_tensor_that_the_index_lacks(folder: Path) -> None:
    change_index(folder, t3=None)
    with pytest.raises(FormatError, match=r"does not name .*'t3'"):
        Checkpoint.open(folder)


def test_one_tensor_in_two_shards(folder: Path) -> None:
    write_safetensors(folder / "model-00002-of-00002.safetensors", TENSORS)
    with pytest.raises(FormatError, match="does not name these tensors where they are"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", "x.bin", 7, None]
)
def test_files_elsewhere(name: Any, folder: Path) -> None:
    index = {"weight_map": {"t0": name}}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(FormatError, match="not the name of a safetensors file"):
        Checkpoint.open(folder)


def test_shards_without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(ModelNotFoundError, match="no model"):
        Checkpoint.open(folder)


def test_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UnsupportedModelError, match=r"pickled \('pytorch_model\.bin'\)"):
        Checkpoint.open(tmp_path)


def test_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_safetensors(tmp_path / "adapter_model.safetensors", TENSORS)
    with pytest.raises(UnsupportedModelError, match="an adapter"):
        Checkpoint.open(tmp_path)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "\x00", "[" * 100_000, "nan"])
@pytest.mark.parametrize("file", ["config.json", INDEX, "generation_config.json"])
def test_bad_json(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(FormatError, match=file.replace(".", r"\.")):
        Checkpoint.open(folder)


def test_every_cut_of_the_index(folder: Path) -> None:
    data = (folder / INDEX).read_bytes()
    for end in range(len(data)):
        (folder / INDEX).write_bytes(data[:end])
        with pytest.raises(TektraError):
            Checkpoint.open(folder)


def test_a_file_that_is_written_to(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    checkpoint.check_unchanged()
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FormatError, match="written to"):
        checkpoint.check_unchanged()
