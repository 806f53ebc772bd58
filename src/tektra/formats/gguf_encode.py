"""Turns metadata values into the bytes that GGUF stores.

Plain Python values get the type that llama.cpp's tools use for them; `Typed` values exactly the one
they name. Nothing is rounded, cut or wrapped on the way. Knows nothing of files or tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.gguf_values import SCALAR_DTYPES, GGUFArray, Typed, ValueType

__all__ = ["encode_key", "encode_string"]

_MAX_KEY_BYTES = 65535
_LENGTH = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_INT_TYPES = (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64)
_INT_ITEM_TYPES = (ValueType.INT32, ValueType.UINT32, ValueType.INT64, ValueType.UINT64)
_BY_DTYPE: Mapping[np.dtype[Any], ValueType] = MappingProxyType(
    {dtype: value_type for value_type, dtype in SCALAR_DTYPES.items()}
)
_FLOATS = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})


def encode_string(text: str | bytes) -> bytes:
    """Length and UTF-8 bytes; what ``surrogateescape`` kept is written as it was."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return _LENGTH.pack(len(raw)) + raw


def encode_key(key: str, value: Any) -> bytes:
    """Key, type and value as they stand in the header.

    Raises:
        FormatError: the key cannot be one, or the value has no GGUF form; names the key.
    """
    if not 0 < len(key.encode("utf-8", "surrogatepass")) <= _MAX_KEY_BYTES:
        raise FormatError(f"a metadata key must have 1 to {_MAX_KEY_BYTES} bytes: {key[:80]!r}")
    try:
        name = encode_string(key.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise FormatError(f"the metadata key {key!r} is not valid Unicode") from error
    typed = value if isinstance(value, Typed) else _typed(key, value)
    if typed.is_array:
        body = _encode_array(key, typed.value, typed.type)
        return name + _U32.pack(ValueType.ARRAY) + body
    return name + _U32.pack(typed.type) + _encode_scalar(key, typed.value, typed.type)


def _typed(key: str, value: Any) -> Typed:
    """The type that a plain value is stored as."""
    if isinstance(value, GGUFArray):
        return Typed(value, value.element_type)
    if isinstance(value, np.ndarray | np.generic):
        dtype = value.dtype.newbyteorder("<")
        if dtype in _BY_DTYPE and value.ndim <= 1:
            return Typed(value if value.ndim else value.item(), _BY_DTYPE[dtype])
    elif isinstance(value, list | tuple):
        return Typed(value, _item_type(key, value))
    elif isinstance(value, bool):
        return Typed(value, ValueType.BOOL)
    elif isinstance(value, int):
        return Typed(value, _int_type(key, value, value, _INT_TYPES))
    elif isinstance(value, float):
        return Typed(value, ValueType.FLOAT32)
    elif isinstance(value, str):
        return Typed(value, ValueType.STRING)
    raise FormatError(f"the metadata key {key!r} cannot hold {_show(value)}")


def _item_type(key: str, items: Sequence[Any]) -> ValueType:
    kinds = {type(item) for item in items}
    if not kinds:
        raise FormatError(
            f"the metadata key {key!r} is an empty list, which says nothing of its type",
            remedy="give it as Typed([], type)",
        )
    if kinds == {bool}:
        return ValueType.BOOL
    if kinds == {str}:
        return ValueType.STRING
    if kinds == {int}:
        return _int_type(key, min(items), max(items), _INT_ITEM_TYPES)
    if kinds <= {int, float}:
        return ValueType.FLOAT32
    raise FormatError(
        f"the metadata key {key!r} is a list of {', '.join(sorted(k.__name__ for k in kinds))}; "
        "lists hold bools, ints, floats or strings, and only one kind"
    )


def _int_type(key: str, low: int, high: int, types: Sequence[ValueType]) -> ValueType:
    for value_type in types:
        limits = np.iinfo(SCALAR_DTYPES[value_type])
        if limits.min <= low and high <= limits.max:
            return value_type
    raise FormatError(f"the metadata key {key!r} has an integer of more than 64 bits")


def _encode_scalar(key: str, value: Any, value_type: ValueType) -> bytes:
    if value_type is ValueType.STRING:
        if not isinstance(value, str | bytes):
            raise _mismatch(key, value, value_type)
        return encode_string(value)
    if value_type not in SCALAR_DTYPES:
        raise _mismatch(key, value, value_type)
    return _encode_numbers(key, [value], value_type)


def _encode_array(key: str, items: Any, item_type: ValueType) -> bytes:
    if item_type is ValueType.STRING:
        strings = items.bytes_list() if isinstance(items, GGUFArray) else items
        for item in strings:
            if not isinstance(item, str | bytes):
                raise _mismatch(key, item, item_type)
        body = b"".join(map(encode_string, strings))
    elif item_type in SCALAR_DTYPES:
        if isinstance(items, GGUFArray) and items.element_type is item_type:
            body = items.numpy().tobytes()
        else:
            body = _encode_numbers(key, items, item_type)
    else:
        raise FormatError(f"the metadata key {key!r}: arrays of arrays cannot be written")
    return _U32.pack(item_type) + _LENGTH.pack(len(items)) + body


def _encode_numbers(key: str, items: Any, value_type: ValueType) -> bytes:
    """Numbers or bools of one type; refuses what would be changed by storing it, but for the
    rounding of floats to float32."""
    dtype = SCALAR_DTYPES[value_type]
    if isinstance(items, np.ndarray) and items.dtype == dtype:
        return items.tobytes()
    numbers: list[Any] = items.tolist() if hasattr(items, "tolist") else list(items)
    allowed: tuple[type, ...] = (int, np.integer)
    if value_type is ValueType.BOOL:
        allowed = (bool, np.bool_)
    elif value_type in _FLOATS:
        allowed = (float, int, np.floating, np.integer)
    limits: np.iinfo[Any] | None = np.iinfo(dtype) if dtype.kind in "iu" else None
    for number in numbers:
        right_type = isinstance(number, allowed)
        if isinstance(number, bool) and value_type is not ValueType.BOOL:
            right_type = False
        if not right_type:
            raise _mismatch(key, number, value_type)
        if limits is not None and not limits.min <= number <= limits.max:
            raise _mismatch(key, number, value_type)
    try:
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = np.array(numbers, dtype)
    except OverflowError:  # an int too large for a float
        raise _mismatch(key, max(numbers, key=abs), value_type) from None
    if value_type in _FLOATS:
        for index in np.flatnonzero(np.isinf(stored)):
            if not math.isinf(numbers[int(index)]):
                raise _mismatch(key, numbers[int(index)], value_type)
    return stored.tobytes()


def _mismatch(key: str, value: Any, value_type: ValueType) -> FormatError:
    return FormatError(
        f"the metadata key {key!r} cannot store {_show(value)} as {value_type.name.lower()}"
    )


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
