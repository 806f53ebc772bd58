"""Reads the header of one GGUF file: metadata, and where each tensor lies.

Every count, length and offset from the file is held against the bytes that are there before
anything is allocated. Knows nothing of split models nor of what the keys mean.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import ggml_type_from_id
from tektra.formats.gguf_strings import StringArrayOverrunError, strings_end
from tektra.formats.gguf_values import SCALAR_DTYPES, GGUFArray, GGUFValue, ValueType
from tektra.formats.tensor_info import TensorInfo

__all__ = [
    "DEFAULT_ALIGNMENT",
    "MAX_ALIGNMENT",
    "MAX_DIMS",
    "MIN_ALIGNMENT",
    "GGUFHeader",
    "parse_header",
]

DEFAULT_ALIGNMENT = 32
MIN_ALIGNMENT = 8  # the specification asks for a multiple of 8
MAX_ALIGNMENT = 1 << 20
MAX_DIMS = 4

_MAGIC = b"GGUF"
_MAX_NAME_BYTES = 65535  # the specification's limit for keys; ggml keeps tensor names under 64
_MAX_STRING_BYTES = 1 << 26  # the largest are whole tokenizer.json files, of some 30 MB
_MAX_ARRAY_ITEMS = 1 << 26
_MAX_NESTED_ARRAYS = 1 << 16
_MAX_ARRAY_DEPTH = 4
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = MappingProxyType(
    {
        ValueType.UINT8: struct.Struct("<B"),
        ValueType.INT8: struct.Struct("<b"),
        ValueType.UINT16: struct.Struct("<H"),
        ValueType.INT16: struct.Struct("<h"),
        ValueType.UINT32: struct.Struct("<I"),
        ValueType.INT32: struct.Struct("<i"),
        ValueType.FLOAT32: struct.Struct("<f"),
        ValueType.UINT64: struct.Struct("<Q"),
        ValueType.INT64: struct.Struct("<q"),
        ValueType.FLOAT64: struct.Struct("<d"),
    }
)
_VALUE_TYPES = MappingProxyType({int(t): t for t in ValueType})


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What the header of one file says.

    Attributes:
        version: 2 or 3.
        metadata: values by key, in file order.
        types: type of each value.
        tensors: in file order; offsets count from the start of the file.
        data_offset: where tensor data starts, in bytes.
    """

    version: int
    metadata: dict[str, GGUFValue]
    types: dict[str, ValueType]
    tensors: tuple[TensorInfo, ...]
    data_offset: int


def parse_header(raw: NDArray[np.uint8], *, name: str, file: int = 0) -> GGUFHeader:
    """Reads the header of a GGUF file.

    Args:
        raw: uint8 [bytes], the whole file; it is referred to by the arrays in the result.
        name: what to call the file in errors.
        file: index that the tensors are given as their `TensorInfo.file`.

    Raises:
        FormatError: the header is malformed, or a tensor does not lie within the file.
        UnsupportedModelError: version, byte order or a tensor type is not supported.

    Source: GGUF specification (ggml, docs/gguf.md).
    """
    cursor = _Cursor(raw, name)
    version = _read_version(cursor)
    num_tensors = cursor.u64("the number of tensors")
    num_keys = cursor.u64("the number of metadata keys")
    # Both counts at once: neither may claim what the other needs.
    if num_keys * _MIN_KEY_BYTES + num_tensors * _MIN_TENSOR_BYTES > cursor.left:
        raise cursor.error(
            f"{num_keys} metadata keys and {num_tensors} tensors do not fit into the file"
        )
    metadata: dict[str, GGUFValue] = {}
    types: dict[str, ValueType] = {}
    for index in range(num_keys):
        key = cursor.name(f"metadata key {index}")
        if key in metadata:
            raise cursor.error(f"the metadata key {key!r} is there twice")
        types[key] = cursor.value_type(key)
        metadata[key] = cursor.value(types[key], key)
    alignment = _read_alignment(cursor, metadata, types)
    pending = _read_tensors(cursor, num_tensors, file)
    data_offset = -(-cursor.pos // alignment) * alignment
    tensors = _place_tensors(cursor, pending, data_offset, alignment)
    return GGUFHeader(version, metadata, types, tensors, data_offset)


class _Cursor:
    """Walks over the file; every step is checked against what is left of it."""

    __slots__ = ("_file_name", "_nested", "_raw", "_view", "pos")

    def __init__(self, raw: NDArray[np.uint8], file_name: str) -> None:
        self._raw = raw
        self._view = raw.data
        self._file_name = file_name
        self._nested = 0
        self.pos = 0

    @property
    def left(self) -> int:
        return len(self._view) - self.pos

    def error(self, message: str, *, remedy: str | None = None) -> FormatError:
        return FormatError(f"{self._file_name}: {message}", remedy=remedy)

    def unsupported(self, message: str, *, remedy: str | None = None) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._file_name}: {message}", remedy=remedy)

    def take(self, num_bytes: int, what: str) -> int:
        """Position of the next `num_bytes` bytes, which are stepped over."""
        pos = self.pos
        if num_bytes > len(self._view) - pos:
            raise self.error(
                f"{what} at byte {pos} takes {num_bytes} bytes, but {self.left} are left",
                remedy="the file is damaged or was not copied completely; get it anew",
            )
        self.pos = pos + num_bytes
        return pos

    def skip(self, expected: bytes) -> bool:
        """Steps over `expected` if that is what comes next."""
        end = self.pos + len(expected)
        if bytes(self._view[self.pos : end]) != expected:
            return False
        self.pos = end
        return True

    def u32(self, what: str) -> int:
        number: int = _U32.unpack_from(self._view, self.take(4, what))[0]
        return number

    def u64(self, what: str) -> int:
        number: int = _U64.unpack_from(self._view, self.take(8, what))[0]
        return number

    def string(self, what: str, limit: int) -> bytes:
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.error(f"{what} has {length} bytes; at most {limit} are allowed")
        pos = self.take(length, what)
        return bytes(self._view[pos : pos + length])

    def name(self, what: str) -> str:
        raw = self.string(f"the name of {what}", _MAX_NAME_BYTES)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"the name of {what}, {raw[:80]!r}, is not UTF-8") from error
        if not text:
            raise self.error(f"the name of {what} is empty")
        return text

    def value_type(self, key: str) -> ValueType:
        number = self.u32(f"the type of {key!r}")
        if number not in _VALUE_TYPES:
            raise self.error(f"the value of {key!r} has the unknown type {number}")
        return _VALUE_TYPES[number]

    def value(self, value_type: ValueType, key: str) -> GGUFValue:
        if value_type is ValueType.STRING:
            raw = self.string(f"the value of {key!r}", _MAX_STRING_BYTES)
            return raw.decode("utf-8", "surrogateescape")
        if value_type is ValueType.ARRAY:
            return self.array(key, 1)
        if value_type is ValueType.BOOL:
            byte = self._view[self.take(1, f"the value of {key!r}")]
            if byte > 1:
                raise self.error(f"the value of {key!r} is a bool, but its byte is {byte}")
            return byte == 1
        scalar = _SCALARS[value_type]
        pos = self.take(scalar.size, f"the value of {key!r}")
        number: int | float = scalar.unpack_from(self._view, pos)[0]
        return number

    def array(self, key: str, depth: int) -> GGUFArray:
        item_type = self.value_type(key)
        count = self.u64(f"the number of items of {key!r}")
        if count > _MAX_ARRAY_ITEMS:
            raise self.error(f"{key!r} has {count} items; at most {_MAX_ARRAY_ITEMS} are allowed")
        if item_type is ValueType.ARRAY:
            return self._nested_array(key, count, depth)
        if item_type is ValueType.STRING:
            return self._string_array(key, count)
        num_bytes = count * SCALAR_DTYPES[item_type].itemsize
        offset = self.take(num_bytes, f"the {count} items of {key!r}")
        if item_type is ValueType.BOOL and count and self._raw[offset : self.pos].max() > 1:
            raise self.error(f"an item of {key!r} is a bool, but its byte is neither 0 nor 1")
        return GGUFArray(self._raw, item_type, offset, count)

    def _string_array(self, key: str, count: int) -> GGUFArray:
        offset = self.pos
        # Each takes 8 bytes for its length at least; checked before the chain is followed.
        self.take(8 * count, f"the lengths of the {count} strings of {key!r}")
        try:
            self.pos = strings_end(self._raw, offset, count)
        except StringArrayOverrunError as error:
            raise self.error(
                f"item {error.index} of {key!r} at byte {error.offset} runs past the end of file",
                remedy="the file is damaged or was not copied completely; get it anew",
            ) from error
        return GGUFArray(self._raw, ValueType.STRING, offset, count)

    def _nested_array(self, key: str, count: int, depth: int) -> GGUFArray:
        if depth >= _MAX_ARRAY_DEPTH:
            raise self.error(f"{key!r} nests arrays deeper than {_MAX_ARRAY_DEPTH}")
        self._nested += count
        if self._nested > _MAX_NESTED_ARRAYS:
            raise self.error(f"{key!r} has too many nested arrays (over {_MAX_NESTED_ARRAYS})")
        offset = self.pos
        items = tuple(self.array(key, depth + 1) for _ in range(count))
        return GGUFArray(self._raw, ValueType.ARRAY, offset, count, items)


def _read_version(cursor: _Cursor) -> int:
    if not cursor.skip(_MAGIC):
        raise cursor.error("this is not a GGUF file (it does not start with 'GGUF')")
    version = cursor.u32("the version")
    if version and version & 0xFFFF == 0:
        raise cursor.unsupported(
            "this GGUF file is big-endian, and only little-endian ones are supported",
            remedy="get the little-endian file, or convert it with gguf-py's gguf-convert-endian",
        )
    if version not in (2, 3):
        raise cursor.unsupported(
            f"this is version {version} of GGUF, and only versions 2 and 3 are supported",
            remedy="convert the model anew" if version == 1 else "update Tektra",
        )
    return version


def _read_alignment(
    cursor: _Cursor, metadata: dict[str, GGUFValue], types: dict[str, ValueType]
) -> int:
    key = "general.alignment"
    if key not in metadata:
        return DEFAULT_ALIGNMENT
    value = metadata[key]
    if types[key] is not ValueType.UINT32 or not isinstance(value, int):
        raise cursor.error(f"{key!r} is of type {types[key].name}; it must be UINT32")
    if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.error(
            f"{key!r} is {value}; it must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        )
    return value


def _read_tensors(cursor: _Cursor, count: int, file: int) -> list[TensorInfo]:
    """The tensor table; offsets are still those of the file, relative to the data."""
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    for index in range(count):
        name = cursor.name(f"tensor {index}")
        if name in seen:
            raise cursor.error(f"the tensor {name!r} is there twice")
        seen.add(name)
        num_dims = cursor.u32(f"the number of dimensions of tensor {name!r}")
        if num_dims > MAX_DIMS:
            raise cursor.error(
                f"tensor {name!r} has {num_dims} dimensions; at most {MAX_DIMS} are allowed"
            )
        dims = tuple(cursor.u64(f"a dimension of tensor {name!r}") for _ in range(num_dims))
        if not all(dims):
            raise cursor.error(f"tensor {name!r} has a dimension of 0: {dims}")
        type_id = cursor.u32(f"the type of tensor {name!r}")
        offset = cursor.u64(f"the offset of tensor {name!r}")
        try:
            ggml_type = ggml_type_from_id(type_id, tensor=name)
        except UnsupportedModelError as error:
            raise cursor.unsupported(error.message, remedy=error.remedy) from None
        except FormatError as error:
            raise cursor.error(error.message, remedy=error.remedy) from None
        width = dims[0] if dims else 1
        if width % ggml_type.block_size:
            raise cursor.error(
                f"tensor {name!r} is {width} wide, which is not a multiple of the "
                f"{ggml_type.block_size} weights in a block of {ggml_type.name}"
            )
        # Python integers do not overflow; that the product is sane is seen against the file's size.
        nbytes = math.prod(dims) // ggml_type.block_size * ggml_type.block_bytes
        tensors.append(TensorInfo(name, dims[::-1], ggml_type, file, offset, nbytes))
    return tensors


def _place_tensors(
    cursor: _Cursor, pending: list[TensorInfo], data_offset: int, alignment: int
) -> tuple[TensorInfo, ...]:
    """Checks that every tensor is aligned, inside the file, and shares no byte with another."""
    size = cursor.pos + cursor.left
    placed: list[TensorInfo] = []
    for t in pending:
        if t.offset % alignment:
            raise cursor.error(
                f"tensor {t.name!r} starts at offset {t.offset}, not a multiple of {alignment}"
            )
        start = data_offset + t.offset
        if start + t.nbytes > size:
            raise cursor.error(
                f"tensor {t.name!r} ends at byte {start + t.nbytes}, but the file has {size} bytes",
                remedy="the file is damaged or was not copied completely; get it anew",
            )
        placed.append(TensorInfo(t.name, t.shape, t.type, t.file, start, t.nbytes))
    by_offset = sorted(placed, key=lambda t: t.offset)
    for before, after in itertools.pairwise(by_offset):
        if before.offset + before.nbytes > after.offset:
            raise cursor.error(f"the tensors {before.name!r} and {after.name!r} overlap")
    return tuple(placed)
