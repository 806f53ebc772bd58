"""The value types of GGUF metadata, and arrays that are read only when somebody asks.

Knows how values lie in a buffer. It does not know which keys there are (see `gguf_header`), nor
what they mean (see `gguf_metadata`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Any, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from tektra.formats.gguf_strings import string_starts, strings_end

__all__ = ["SCALAR_DTYPES", "GGUFArray", "GGUFValue", "Typed", "ValueType"]


class ValueType(IntEnum):
    """Type of a metadata value; the number is the one that is stored.

    Source: GGUF specification, ``gguf_metadata_value_type``.
    """

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_DTYPES: MappingProxyType[ValueType, np.dtype[Any]] = MappingProxyType(
    {
        ValueType.UINT8: np.dtype("<u1"),
        ValueType.INT8: np.dtype("<i1"),
        ValueType.UINT16: np.dtype("<u2"),
        ValueType.INT16: np.dtype("<i2"),
        ValueType.UINT32: np.dtype("<u4"),
        ValueType.INT32: np.dtype("<i4"),
        ValueType.FLOAT32: np.dtype("<f4"),
        ValueType.BOOL: np.dtype("?"),
        ValueType.UINT64: np.dtype("<u8"),
        ValueType.INT64: np.dtype("<i8"),
        ValueType.FLOAT64: np.dtype("<f8"),
    }
)
"""NumPy types of the values of fixed size, as they lie in the file (little-endian)."""


class GGUFArray(Sequence[Any]):
    """An array of a GGUF file: a place in the mapped file, decoded on request.

    Behaves as a read-only sequence and compares equal to lists and tuples with the same items.
    Items are Python ints, floats, bools, str (UTF-8; bytes that are not are kept by
    ``surrogateescape``), or arrays again.
    """

    __slots__ = ("_count", "_offset", "_raw", "_starts", "_subarrays", "element_type")

    def __init__(
        self,
        raw: NDArray[np.uint8],
        element_type: ValueType,
        offset: int,
        count: int,
        subarrays: tuple[GGUFArray, ...] = (),
    ) -> None:
        """Args:
        raw: uint8 [bytes], the whole file.
        element_type: type of the items.
        offset: byte offset of the first item; the caller has checked that all items lie in `raw`.
        count: number of items.
        subarrays: the items, where they are arrays themselves.
        """
        self.element_type = element_type
        self._raw = raw
        self._offset = offset
        self._count = count
        self._subarrays = subarrays
        self._starts: NDArray[np.int64] | None = None

    def numpy(self) -> NDArray[Any]:
        """The items of an array of numbers or bools: read-only [len], in the type of the file.

        A view of the mapped file if the items are aligned there, else a copy.

        Raises:
            TypeError: the items are strings or arrays.
        """
        dtype = SCALAR_DTYPES.get(self.element_type)
        if dtype is None:
            raise TypeError(f"an array of {self.element_type.name} has no NumPy form")
        end = self._offset + self._count * dtype.itemsize
        items = self._raw[self._offset : end].view(dtype)
        if not items.flags.aligned:
            items = items.copy()
            items.flags.writeable = False
        return items

    def tolist(self) -> list[Any]:
        """All items as a list."""
        if self.element_type is ValueType.STRING:
            return [item.decode("utf-8", "surrogateescape") for item in self.bytes_list()]
        if self.element_type is ValueType.ARRAY:
            return [item.tolist() for item in self._subarrays]
        items: list[Any] = self.numpy().tolist()
        return items

    def bytes_list(self) -> list[bytes]:
        """All items of an array of strings, as the bytes that are stored.

        Raises:
            TypeError: the items are not strings.
        """
        if self.element_type is not ValueType.STRING:
            raise TypeError(f"an array of {self.element_type.name} holds no strings")
        starts, end = string_starts(self._raw, self._offset, self._count)
        self._starts = starts
        data = self._raw[self._offset : end].tobytes()
        begins = starts + (8 - self._offset)
        ends = np.append(starts, end)[1:] - self._offset
        return [data[b:e] for b, e in zip(begins.tolist(), ends.tolist(), strict=True)]

    def raw_strings(self) -> NDArray[np.uint8]:
        """The file from the first string of an array of strings on: a chain of a 64-bit length and
        so many bytes, as often as there are items. Read-only; what comes behind them is not theirs.

        Raises:
            TypeError: the items are not strings.
        """
        if self.element_type is not ValueType.STRING:
            raise TypeError(f"an array of {self.element_type.name} holds no strings")
        return self._raw[self._offset :]

    def detached(self) -> GGUFArray:
        """The same items in memory of their own, which keep no file mapped."""
        if self.element_type is ValueType.ARRAY:
            items = tuple(item.detached() for item in self._subarrays)
            return GGUFArray(np.empty(0, np.uint8), self.element_type, 0, self._count, items)
        if self.element_type is ValueType.STRING:
            end = strings_end(self._raw, self._offset, self._count)
        else:
            end = self._offset + self._count * SCALAR_DTYPES[self.element_type].itemsize
        own = self._raw[self._offset : end].copy()
        own.flags.writeable = False
        return GGUFArray(own, self.element_type, 0, self._count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            return self.tolist()[index]
        at = operator.index(index)
        if not -self._count <= at < self._count:
            raise IndexError(f"index {at} in an array of {self._count} items")
        at %= self._count
        if self.element_type is ValueType.STRING:
            return self._string(at)
        if self.element_type is ValueType.ARRAY:
            return self._subarrays[at]
        return self.numpy()[at].item()

    def _string(self, at: int) -> str:
        if self._starts is None:
            self._starts, _ = string_starts(self._raw, self._offset, self._count)
        begin = int(self._starts[at])
        length = int(self._raw[begin : begin + 8].copy().view("<u8")[0])
        data: bytes = self._raw[begin + 8 : begin + 8 + length].tobytes()
        return data.decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GGUFArray):
            return self.element_type is other.element_type and self.tolist() == other.tolist()
        if isinstance(other, list | tuple):
            return len(other) == self._count and self.tolist() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash either

    def __repr__(self) -> str:
        return f"GGUFArray({self.element_type.name.lower()}, {self._count} items)"


GGUFValue: TypeAlias = int | float | bool | str | GGUFArray


class Typed:
    """A value together with the exact GGUF type it is stored as.

    Attributes:
        value: int, float, bool, str, or a sequence of them for an array.
        type: type of the value, or of the items of an array.
        is_array: whether `value` is an array of `type`.
    """

    __slots__ = ("is_array", "type", "value")

    def __init__(self, value: Any, type: str | ValueType) -> None:
        """`type` is a `ValueType` or a name such as ``"u32"``, ``"f32"``, ``"bool"``, ``"str"``.

        An array is a sequence given as `value`; `type` is then that of its items.

        Raises:
            ValueError: there is no type of that name.
        """
        if isinstance(type, ValueType):
            self.type = type
        elif type in _SHORT_NAMES:
            self.type = _SHORT_NAMES[type]
        else:
            raise ValueError(f"unknown metadata type {type!r}; known: {', '.join(_SHORT_NAMES)}")
        self.value = value
        self.is_array = not isinstance(value, str | bytes | int | float | np.generic)

    def __repr__(self) -> str:
        return f"Typed({self.value!r}, {self.type.name})"


_SHORT_NAMES = MappingProxyType(
    {
        "u8": ValueType.UINT8,
        "i8": ValueType.INT8,
        "u16": ValueType.UINT16,
        "i16": ValueType.INT16,
        "u32": ValueType.UINT32,
        "i32": ValueType.INT32,
        "f32": ValueType.FLOAT32,
        "bool": ValueType.BOOL,
        "str": ValueType.STRING,
        "u64": ValueType.UINT64,
        "i64": ValueType.INT64,
        "f64": ValueType.FLOAT64,
    }
)
