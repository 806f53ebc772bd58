"""Opens safetensors files without copying them: which tensors they hold, and where.

A header that is not exactly as the specification has it is refused before anything is made of it.
It does not know what the tensors mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.json_file import parse_json_object
from tektra.formats.mapped_file import MappedFile

__all__ = ["DTYPE_BITS", "MAX_HEADER_BYTES", "SafetensorsFile", "StoredTensor"]

MAX_HEADER_BYTES: Final = 100_000_000
"""As the safetensors package has it."""

DTYPE_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)
"""Bits of one element of each type that the format knows."""

_MAX_ELEMENTS = 1 << 62
_MAX_DIMS = 32
_DAMAGED = "the file is damaged or was not copied completely; get it anew"
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        name: as stored.
        dtype: name of the element type, a key of `DTYPE_BITS`.
        shape: rows first and the width last, row-major.
        offset: bytes from the start of the file.
        nbytes: bytes that it takes.
        file: index of the file among the shards of a checkpoint.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    file: int = 0

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


class SafetensorsFile:
    """A safetensors file, mapped for reading.

    Views that were handed out keep the mapping alive after `close`.

    Attributes:
        path: as it was given.
        status: of the file when it was opened.
        tensors: by name, in the order in which they lie in the file.
        metadata: the strings under ``__metadata__``.
        num_bytes: size of the file.
    """

    def __init__(
        self, mapped: MappedFile, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]
    ) -> None:
        """Use `SafetensorsFile.open`."""
        self.path = mapped.path
        self.status = mapped.status
        self.tensors = tensors
        self.metadata = metadata
        self.num_bytes = mapped.raw.size
        self._mapped: MappedFile | None = mapped

    @classmethod
    def open(cls, path: Path, *, file: int = 0) -> Self:
        """Maps a file and reads its header.

        Args:
            path: of the file.
            file: index that the tensors are given as their `StoredTensor.file`.

        Raises:
            ModelNotFoundError: there is no such file.
            FormatError: it is malformed: see `parse_header`.
            UnsupportedModelError: a tensor has an element type that is not known.
            MemoryLimitError: there is no address space left to map it.
        """
        mapped = MappedFile.open(path)
        tensors, metadata = parse_header(mapped.raw, name=path.name, file=file)
        return cls(mapped, MappingProxyType(tensors), MappingProxyType(metadata))

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor: read-only uint8 [nbytes], a view of the mapped file.

        Raises:
            FormatError: there is no such tensor, or the file was cut short since it was opened.
            ValueError: the file was closed.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise FormatError(f"{self.path.name} has no tensor {name!r}")
        if self._mapped is None:
            raise ValueError(f"{self.path.name} was closed")
        self._mapped.check_size()
        return self._mapped.raw[tensor.offset : tensor.offset + tensor.nbytes]

    def check_unchanged(self) -> None:
        """Raises `FormatError` where the file was written to since it was opened."""
        if self._mapped is not None:
            self._mapped.check_unchanged()

    def close(self) -> None:
        """Lets go of the file, which is unmapped once no view of it is left."""
        self._mapped = None


def parse_header(
    raw: NDArray[np.uint8], *, name: str, file: int = 0
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Reads the header of a safetensors file.

    Every tensor has to lie right behind the one before it, the first at the start of the data and
    the last up to the end of the file, and to take just the bytes that its shape and type ask for.

    Args:
        raw: uint8 [bytes], the whole file.
        name: what to call it in errors.
        file: index that the tensors are given as their `StoredTensor.file`.

    Returns:
        The tensors in the order of their places, and the strings under ``__metadata__``.

    Raises:
        FormatError: the header is longer than `MAX_HEADER_BYTES` or than the file, is not JSON of
            the right form, has a key twice, or tensors overlap, leave holes, or do not end where
            the file does.
        UnsupportedModelError: an element type is not known.

    Source: huggingface.co/docs/safetensors, "Format".
    """
    if raw.size < 8:
        raise FormatError(f"{name} has {raw.size} bytes: too few for a header", remedy=_DAMAGED)
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"{name}: the header has {length} bytes; at most {MAX_HEADER_BYTES} are allowed",
            remedy="this is not a safetensors file, or it is damaged",
        )
    begin = 8 + length
    if begin > raw.size:
        raise FormatError(
            f"{name}: the header has {length} bytes, but {raw.size - 8} are left", remedy=_DAMAGED
        )
    text = raw[8:begin].tobytes()
    if not text.startswith(b"{"):
        raise FormatError(f"{name}: the header does not begin with '{{'", remedy=_DAMAGED)
    header = parse_json_object(text, name=f"the header of {name}")
    metadata = _metadata(header.pop("__metadata__", None), name)
    entries = [_entry(key, value, begin, name, file) for key, value in header.items()]
    entries.sort(key=lambda tensor: (tensor.offset, tensor.offset + tensor.nbytes))
    end, before = begin, "the header"
    for tensor in entries:
        if tensor.offset != end:
            what = "overlap" if tensor.offset < end else "have a hole between them"
            raise FormatError(f"{name}: {before} and {tensor.name!r} {what}", remedy=_DAMAGED)
        end, before = tensor.offset + tensor.nbytes, repr(tensor.name)
    if end != raw.size:
        raise FormatError(
            f"{name}: the tensors end at byte {end}, but the file has {raw.size} bytes",
            remedy=_DAMAGED,
        )
    return {tensor.name: tensor for tensor in entries}, metadata


def _metadata(value: Any, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(f"{name}: '__metadata__' is not an object of strings")
    return value


def _entry(key: str, value: Any, begin: int, name: str, file: int) -> StoredTensor:
    what = f"{name}: tensor {key[:200]!r}"
    if not key.isascii() and any(0xD800 <= ord(letter) < 0xE000 for letter in key):
        raise FormatError(f"{what} has a name that is not Unicode")
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise FormatError(f"{what} must have exactly: {', '.join(sorted(_FIELDS))}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise FormatError(f"{what}: 'dtype' is not a string")
    if not _sizes(shape) or len(shape) > _MAX_DIMS:
        raise FormatError(f"{what}: 'shape' is not a list of sizes")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{what}: 'data_offsets' are not a begin and an end")
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise UnsupportedModelError(f"{what} has the unknown element type {dtype[:64]!r}")
    # Python's integers do not overflow, but those of other readers do: no size they could not hold.
    elements = 1
    for size in shape:
        elements *= size
        if elements > _MAX_ELEMENTS:
            raise FormatError(f"{what} has the shape {shape}, which is too large")
    num_bits = elements * bits
    if num_bits % 8 or num_bits // 8 != offsets[1] - offsets[0]:
        raise FormatError(
            f"{what} of {dtype} with shape {shape} takes {num_bits / 8:g} bytes, "
            f"not {offsets[1] - offsets[0]}",
            remedy=_DAMAGED,
        )
    return StoredTensor(key, dtype, tuple(shape), begin + offsets[0], num_bits // 8, file)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 63
        for item in value
    )
