"""A Hugging Face model directory as it lies on disk: config, weights in one file or in shards.

Nothing in it is executed: pickled weights are never opened, and code that a config names is not
looked at. It does not know which architecture the weights are of (see `models.checkpoint_view`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, ModelNotFoundError, UnsupportedModelError
from tektra.formats.json_file import read_json_object
from tektra.formats.safetensors_file import SafetensorsFile, StoredTensor

__all__ = ["CONFIG", "INDEX", "PICKLED", "SINGLE", "Checkpoint", "is_checkpoint"]

CONFIG: Final = "config.json"
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
PICKLED: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of weights that Python's pickle wrote, which can run code when they are read."""

_SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_MAX_SHARDS = 10_000
_MAX_NAMED = 4


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a directory with a config.json and safetensors weights."""
    return (path / CONFIG).is_file() and any(
        name.endswith(".safetensors") or name == INDEX for name in _names(path)
    )


class Checkpoint:
    """A model directory, its weights mapped for reading.

    Safe to share among threads. Views that were handed out keep the mapping alive after `close`.

    Attributes:
        folder: the directory.
        config: content of config.json.
        generation_config: content of generation_config.json; empty where there is none.
        paths: config.json and the files with weights, in the order of their names.
        tensors: the stored tensors of all shards by name.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        generation_config: Mapping[str, Any],
        files: list[SafetensorsFile],
    ) -> None:
        """Use `Checkpoint.open`."""
        self.folder = folder
        self.config = config
        self.generation_config = generation_config
        self.paths = tuple(file.path for file in files)
        self.statuses = tuple(file.status for file in files)
        self.file_bytes = sum(file.num_bytes for file in files)
        self._files = files
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in file.tensors.items():
                if name in tensors:
                    first = files[tensors[name].file].path.name
                    raise FormatError(f"tensor {name!r} is both in {first} and {file.path.name}")
                tensors[name] = tensor
        self.tensors: Mapping[str, StoredTensor] = MappingProxyType(tensors)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Opens a model directory.

        Raises:
            ModelNotFoundError: it, its config.json, or a shard is not there.
            FormatError: a file is malformed, or the index and the shards disagree.
            UnsupportedModelError: its weights are pickled, or it is an adapter.
            MemoryLimitError: there is no address space left to map it.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise ModelNotFoundError(
                f"the directory {folder} has no {CONFIG}",
                remedy="a model directory has config.json, the weights and a tokenizer in it",
            )
        config = read_json_object(folder / CONFIG)
        paths, weight_map = _weight_files(folder)
        files = [SafetensorsFile.open(path, file=number) for number, path in enumerate(paths)]
        if weight_map is not None:
            _check_index(files, weight_map)
        generation = folder / "generation_config.json"
        return cls(
            folder,
            MappingProxyType(config),
            MappingProxyType(read_json_object(generation) if generation.exists() else {}),
            files,
        )

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor: read-only uint8 [nbytes], a view of the mapped file.

        Raises:
            FormatError: there is no such tensor, or a file was cut short since it was opened.
            ValueError: the checkpoint was closed.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise FormatError(f"{self.folder.name} has no tensor {name!r}")
        if not self._files:
            raise ValueError(f"{self.folder.name} was closed")
        return self._files[tensor.file].tensor_bytes(name)

    def check_unchanged(self) -> None:
        """Raises `FormatError` where a file with weights was written to since it was opened."""
        for file in self._files:
            file.check_unchanged()

    def close(self) -> None:
        """Lets go of the files. Each is unmapped once no view of it is left."""
        for file in self._files:
            file.close()
        self._files = []

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, {len(self.tensors)} tensors)"


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files with weights, and the file of each tensor by the index if there is one."""
    names = _names(folder)
    if SINGLE in names:
        return [folder / SINGLE], None
    if INDEX in names:
        weight_map = _weight_map(folder / INDEX)
        shards = sorted(set(weight_map.values()))
        missing = [name for name in shards if not (folder / name).exists()]
        if missing:
            raise ModelNotFoundError(
                f"{len(missing)} of the {len(shards)} files of this model are missing: "
                f"{_list(missing)}",
                remedy=f"put them into {folder}",
            )
        extra = sorted(name for name in names if _SHARD.fullmatch(name) and name not in shards)
        if extra:
            raise FormatError(
                f"{INDEX} does not name {_list(extra)}",
                remedy="files of two models are mixed, or the index is an old one: get it anew",
            )
        return [folder / name for name in shards], weight_map
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if "adapter_config.json" in names or found == ["adapter_model.safetensors"]:
        raise UnsupportedModelError(
            f"{folder} holds an adapter, not a model",
            remedy="load the model that it was made for, and give this as an adapter",
        )
    if len(found) == 1 and not _SHARD.fullmatch(found[0]):
        return [folder / found[0]], None
    if found:
        raise ModelNotFoundError(
            f"the directory {folder} has {_list(found)}, but no {INDEX}", remedy="get that file too"
        )
    pickled = sorted(name for name in names if name.lower().endswith(PICKLED))
    if pickled:
        raise UnsupportedModelError(
            f"the weights in {folder} are pickled ({_list(pickled)}), which can run code and is "
            "never opened",
            remedy="get the model's safetensors files, or its GGUF file",
        )
    raise ModelNotFoundError(f"the directory {folder} holds no safetensors file")


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path.name} has no 'weight_map' of tensors and files")
    for tensor, name in weight_map.items():
        # A plain name: whatever else it is could lead out of the directory.
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+\.safetensors", name, re.ASCII):
            raise FormatError(
                f"{path.name}: the file of {tensor[:80]!r} is {str(name)[:80]!r}, which is not the "
                "name of a safetensors file"
            )
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise FormatError(f"{path.name} names more than {_MAX_SHARDS} files")
    return weight_map


def _check_index(files: list[SafetensorsFile], weight_map: Mapping[str, str]) -> None:
    held = {file.path.name: file.tensors for file in files}
    lacking = [tensor for tensor, name in weight_map.items() if tensor not in held[name]]
    if lacking:
        raise FormatError(
            f"{INDEX} says that {weight_map[lacking[0]]} has the tensors {_list(lacking)}, "
            "which it has not",
            remedy="files of two models are mixed: get them anew",
        )
    extra = [t for name, tensors in held.items() for t in tensors if weight_map.get(t) != name]
    if extra:
        raise FormatError(
            f"{INDEX} does not name these tensors where they are: {_list(extra)}",
            remedy="files of two models are mixed, or the index is an old one: get it anew",
        )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise ModelNotFoundError(f"{folder} cannot be read: {error.strerror}") from None


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(map(repr, names[:_MAX_NAMED])) + more
