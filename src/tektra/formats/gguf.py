"""Opens GGUF models, whole or split into several files, without copying them.

The files are mapped read-only; metadata and the tensor table are read at once, arrays and weights
when they are asked for. It does not know what the metadata means or which tensors a model needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, ModelNotFoundError
from tektra.formats.gguf_experts import present_experts
from tektra.formats.gguf_header import GGUFHeader, parse_header
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.gguf_values import GGUFValue, Typed, ValueType
from tektra.formats.mapped_file import MappedFile
from tektra.formats.quants import dequantize
from tektra.formats.tensor_info import TensorInfo

__all__ = ["SPLIT_KEYS", "GGUFFile", "split_name"]

_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_MAX_NAMED = 5

SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
"""Metadata of split models: which file this is, of how many, and the tensors in all of them."""


def split_name(stem: str, index: int, count: int) -> str:
    """File name of split `index` (from 0) of `count`, as llama.cpp writes them."""
    return f"{stem}-{index + 1:05d}-of-{count:05d}.gguf"


class GGUFFile:
    """A GGUF model, open for reading.

    Safe to share among threads. Views that were handed out keep the mapping alive after `close`.

    A mapped file that somebody cuts short takes the process with it when the lost part is read.
    So each access to a tensor looks at the size first, and `check_unchanged` tells afterwards
    whether what was read is what was there when the file was opened. A file that is deleted, or
    replaced by another under its name, stays as it was for whoever has it open.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        files: Sequence[MappedFile],
        headers: Sequence[GGUFHeader],
    ) -> None:
        """Use `GGUFFile.open`. Takes the splits in order: paths, mapped files, parsed headers."""
        self._paths = tuple(paths)
        self._files = tuple(files)
        self._statuses = tuple(file.status for file in files)
        self._header = headers[0]
        self._file_bytes = sum(file.raw.size for file in files)
        tensors: dict[str, TensorInfo] = {}
        for path, header in zip(paths, headers, strict=True):
            for info in header.tensors:
                if info.name in tensors:
                    first = paths[tensors[info.name].file].name
                    raise FormatError(f"tensor {info.name!r} is both in {first} and {path.name}")
                tensors[info.name] = info
        presented, self._pieces = present_experts(tensors)
        self._tensors = MappingProxyType(presented)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens the model at `path`; any one of the files of a split model will do.

        Raises:
            ModelNotFoundError: the file, or another split of it, is not there.
            FormatError: a file is malformed, or the splits do not belong together.
            UnsupportedModelError: version, byte order or a tensor type is not supported.
            MemoryLimitError: there is no address space left to map it.
        """
        given = Path(path)
        mapped = MappedFile.open(given)
        header = parse_header(mapped.raw, name=given.name)
        index, count = _split_position(given, header)
        if count == 1:
            return cls([given], [mapped], [header])
        paths = _split_paths(given, index, count)
        files: list[MappedFile] = []
        headers: list[GGUFHeader] = []
        for number, split in enumerate(paths):
            files.append(mapped if number == index else MappedFile.open(split))
            headers.append(parse_header(files[-1].raw, name=split.name, file=number))
            _split_position(split, headers[-1])  # refuses a file that is not what its name says
        _check_total(paths, headers)
        return cls(paths, files, headers)

    @property
    def format_name(self) -> str:
        """``"gguf"``."""
        return "gguf"

    @property
    def path(self) -> Path:
        """The first file."""
        return self._paths[0]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the model, in the order of the splits."""
        return self._paths

    @property
    def statuses(self) -> tuple[os.stat_result, ...]:
        """What the system said of each of `paths` when it was opened."""
        return self._statuses

    @property
    def variant(self) -> str:
        """What besides the bytes of the files makes the weights what they are: nothing."""
        return ""

    @property
    def version(self) -> int:
        """Version of the GGUF format, 2 or 3."""
        return self._header.version

    @property
    def metadata(self) -> Mapping[str, GGUFValue]:
        """Values by key, in file order: int, float, bool, str or `GGUFArray`.

        Of a split model, those of the first file.
        """
        return MappingProxyType(self._header.metadata)

    @property
    def typed_metadata(self) -> dict[str, Typed]:
        """The metadata with its exact types, for writing it elsewhere.

        Without the keys that say how the model is split, which are the writer's business.

        Raises:
            FormatError: a value is an array of arrays, which `gguf_writer` does not write.
        """
        typed: dict[str, Typed] = {}
        for key, value in self._header.metadata.items():
            if key in SPLIT_KEYS:
                continue
            value_type = self._header.types[key]
            if value_type is ValueType.ARRAY:
                value_type = value.element_type  # type: ignore[union-attr]
                if value_type is ValueType.ARRAY:
                    raise FormatError(f"{key!r} is an array of arrays, which cannot be written")
            typed[key] = Typed(value, value_type)
        return typed

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Tensors by name, in file order over all splits; experts always stacked by matrix."""
        return self._tensors

    @property
    def file_bytes(self) -> int:
        """Size of all files together, in bytes."""
        return self._file_bytes

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor: read-only uint8 [nbytes], a view of the mapped file.

        Of experts that lie apart in the file it is a copy.

        Raises:
            FormatError: the model has no such tensor, or the file was cut short since it was
                opened.
            ValueError: the file was closed.
        """
        info = self._tensor(name)
        if not self._files:
            raise ValueError(f"{self.path.name} was closed")
        pieces = self._pieces.get(name)
        if pieces is None:
            return self._bytes_at(info.file, info.offset, info.nbytes)
        data = np.concatenate(
            [self._bytes_at(p.info.file, p.info.offset + p.begin, p.nbytes) for p in pieces]
        )
        data.flags.writeable = False
        return data

    def _bytes_at(self, index: int, offset: int, nbytes: int) -> NDArray[np.uint8]:
        file = self._files[index]
        file.check_size()
        return file.raw[offset : offset + nbytes]

    def check_unchanged(self) -> None:
        """Raises `FormatError` where a file was written to since it was opened."""
        for file in self._files:
            file.check_unchanged()

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor as a new float32 array of its shape.

        Raises:
            FormatError: the model has no such tensor.
            UnsupportedModelError: its type cannot be decoded.
        """
        info = self._tensor(name)
        return dequantize(self.tensor_bytes(name), info.type, info.shape, name=name)

    def _tensor(self, name: str) -> TensorInfo:
        try:
            return self._tensors[name]
        except KeyError:
            raise FormatError(f"{self.path.name} has no tensor {name!r}") from None

    def close(self) -> None:
        """Lets go of the files. Each is unmapped once no view of it is left.

        Such views are what `tensor_bytes` returned, and the arrays of `metadata`.
        """
        self._files = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self._tensors)} tensors)"


def _split_position(path: Path, header: GGUFHeader) -> tuple[int, int]:
    """Which split the file says it is (from 0), and of how many."""
    metadata = Metadata(header.metadata, name=path.name)
    count = metadata.int("split.count", default=1, minimum=0, maximum=99999)
    named = _SPLIT_NAME.fullmatch(path.name)
    if count <= 1:
        if named and int(named["count"]) > 1:
            raise FormatError(
                f"{path.name} is named as one part of several, but its metadata says it is whole",
                remedy="rename the file if it is a whole model; else get all parts anew",
            )
        return 0, 1
    index = metadata.int("split.no", minimum=0, maximum=count - 1)
    if not named:
        raise FormatError(
            f"{path.name} is split {index + 1} of {count}, but its name does not say so",
            remedy=f"rename it to the form {split_name('NAME', index, count)}",
        )
    if (int(named["no"]), int(named["count"])) != (index + 1, count):
        raise FormatError(f"{path.name} says inside that it is split {index + 1} of {count}")
    return index, count


def _split_paths(given: Path, index: int, count: int) -> list[Path]:
    named = _SPLIT_NAME.fullmatch(given.name)
    assert named is not None  # _split_position has seen to it
    paths = [given.with_name(split_name(named["stem"], number, count)) for number in range(count)]
    paths[index] = given
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise ModelNotFoundError(
            f"{len(missing)} of the {count} files of this model are missing: "
            f"{', '.join(missing[:_MAX_NAMED])}{more}",
            remedy=f"put them next to {given.name}",
        )
    return paths


def _check_total(paths: Sequence[Path], headers: Sequence[GGUFHeader]) -> None:
    found = sum(len(header.tensors) for header in headers)
    for path, header in zip(paths, headers, strict=True):
        metadata = Metadata(header.metadata, name=path.name)
        stated = metadata.int("split.tensors.count", minimum=0)
        if stated != found:
            raise FormatError(
                f"{path.name} says that the model has {stated} tensors, but its splits have {found}"
            )
