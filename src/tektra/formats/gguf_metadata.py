"""Typed access to the metadata of a model: a value of the right type and in range, or an error.

Works on any mapping: GGUF metadata, a parsed config.json, a dict in a test. It does not know which
keys a model has; the architecture asks for them by name.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Literal, TypeVar

import numpy as np

from tektra.errors import FormatError
from tektra.formats.gguf_values import GGUFArray, ValueType

__all__ = ["REQUIRED", "Metadata", "Required"]

_T = TypeVar("_T")
_D = TypeVar("_D")


class Required(Enum):
    """The type of `REQUIRED`."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED
"""Stands for "there is no default": a missing key is an error."""

_INT_ITEMS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)
_FLOAT_ITEMS = _INT_ITEMS | {ValueType.FLOAT32, ValueType.FLOAT64}


class Metadata:
    """A mapping of metadata that is asked for values of a type.

    Each method takes the key and a `default` that is returned where the key is missing; without
    one a missing key raises `FormatError`. A value of the wrong type or out of range always does:
    a default never hides a bad value. The error names the key, the value and what is allowed.
    """

    __slots__ = ("_name", "_values")

    _KIND: ClassVar[builtins.str] = "metadata key"

    def __init__(self, values: Mapping[builtins.str, Any], *, name: builtins.str = "") -> None:
        """Args:
        values: the metadata.
        name: the file it comes from, for errors.
        """
        self._values = values
        self._name = name

    def has(self, key: builtins.str) -> builtins.bool:
        """Whether the key is there."""
        return key in self._values

    def int(
        self,
        key: builtins.str,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        minimum: builtins.int | None = None,
        maximum: builtins.int | None = None,
    ) -> builtins.int | _D:
        """An integer of any stored width; a bool or a float is refused."""
        if key not in self._values:
            return self._missing(key, default, "an integer")
        value = self._values[key]
        allowed = "an integer" + _range(minimum, maximum)
        if not _is_int(value) or not _inside(value, minimum, maximum):
            raise self._bad(key, value, allowed)
        return builtins.int(value)

    def float(
        self,
        key: builtins.str,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        minimum: builtins.float | None = None,
        maximum: builtins.float | None = None,
    ) -> builtins.float | _D:
        """A finite number; integers are taken too, as JSON writes 10000 for 10000.0."""
        if key not in self._values:
            return self._missing(key, default, "a number")
        value = self._values[key]
        allowed = "a finite number" + _range(minimum, maximum)
        if not _is_finite(value) or not _inside(value, minimum, maximum):
            raise self._bad(key, value, allowed)
        return builtins.float(value)

    def bool(
        self, key: builtins.str, default: _D | Literal[Required.REQUIRED] = REQUIRED
    ) -> builtins.bool | _D:
        """True or false; integers are refused."""
        if key not in self._values:
            return self._missing(key, default, "a bool")
        value = self._values[key]
        if not isinstance(value, builtins.bool | np.bool_):
            raise self._bad(key, value, "true or false")
        return builtins.bool(value)

    def str(
        self, key: builtins.str, default: _D | Literal[Required.REQUIRED] = REQUIRED
    ) -> builtins.str | _D:
        """A string."""
        if key not in self._values:
            return self._missing(key, default, "a string")
        value = self._values[key]
        if not isinstance(value, builtins.str):
            raise self._bad(key, value, "a string")
        return builtins.str(value)

    def int_list(
        self,
        key: builtins.str,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        minimum: builtins.int | None = None,
        maximum: builtins.int | None = None,
        length: builtins.int | None = None,
    ) -> list[builtins.int] | _D:
        """A list of integers, each in the range; `length` is how many there have to be."""
        if key not in self._values:
            return self._missing(key, default, "a list of integers")
        allowed = "a list of integers" + _range(minimum, maximum)
        items = self._items(key, _INT_ITEMS, allowed, length)
        for index, item in enumerate(items):
            if not _is_int(item) or not _inside(item, minimum, maximum):
                raise self._bad_item(key, index, item, allowed)
        return [builtins.int(item) for item in items]

    def float_list(
        self,
        key: builtins.str,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        minimum: builtins.float | None = None,
        maximum: builtins.float | None = None,
        length: builtins.int | None = None,
    ) -> list[builtins.float] | _D:
        """A list of finite numbers, each in the range; `length` is how many there have to be."""
        if key not in self._values:
            return self._missing(key, default, "a list of numbers")
        allowed = "a list of finite numbers" + _range(minimum, maximum)
        items = self._items(key, _FLOAT_ITEMS, allowed, length)
        for index, item in enumerate(items):
            if not _is_finite(item) or not _inside(item, minimum, maximum):
                raise self._bad_item(key, index, item, allowed)
        return [builtins.float(item) for item in items]

    def str_list(
        self,
        key: builtins.str,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        length: builtins.int | None = None,
    ) -> list[builtins.str] | _D:
        """A list of strings; `length` is how many there have to be."""
        if key not in self._values:
            return self._missing(key, default, "a list of strings")
        allowed = "a list of strings"
        items = self._items(key, {ValueType.STRING}, allowed, length)
        for index, item in enumerate(items):
            if not isinstance(item, builtins.str):
                raise self._bad_item(key, index, item, allowed)
        return items

    def is_list(self, key: builtins.str) -> builtins.bool:
        """Whether the key is there and holds a list."""
        value = self._values.get(key)
        return isinstance(value, GGUFArray | list | tuple | np.ndarray)

    def bool_list(self, key: builtins.str, *, length: builtins.int) -> list[builtins.bool]:
        """A list of so many truth values; zeros and ones are taken too, as some writers have it."""
        allowed = "a list of true and false"
        items = self._items(key, _INT_ITEMS | {ValueType.BOOL}, allowed, length)
        for index, item in enumerate(items):
            if item not in (0, 1):  # also false and true
                raise self._bad_item(key, index, item, allowed)
        return [builtins.bool(item) for item in items]

    def int_per_layer(
        self,
        key: builtins.str,
        num_layers: builtins.int,
        default: _D | Literal[Required.REQUIRED] = REQUIRED,
        *,
        minimum: builtins.int | None = None,
        maximum: builtins.int | None = None,
    ) -> list[builtins.int] | _D:
        """One integer for each layer: stored as a list of them, or as one that holds for all."""
        if _is_int(self._values.get(key)):
            return [self.int(key, minimum=minimum, maximum=maximum)] * num_layers
        return self.int_list(key, default, minimum=minimum, maximum=maximum, length=num_layers)

    def _items(
        self,
        key: builtins.str,
        item_types: frozenset[ValueType] | set[ValueType],
        allowed: builtins.str,
        length: builtins.int | None,
    ) -> list[Any]:
        value = self._values[key]
        if isinstance(value, GGUFArray):
            # An empty array says nothing by its type: some writers have to pick one at random.
            right = value.element_type in item_types or not len(value)
        else:
            right = isinstance(value, list | tuple) or (
                isinstance(value, np.ndarray) and value.ndim == 1
            )
        if not right:
            raise self._bad(key, value, allowed)
        if length is not None and len(value) != length:
            raise self._error(f"{key!r} has {len(value)} items, but must have {length}")
        items: list[Any] = value.tolist() if hasattr(value, "tolist") else list(value)
        return items

    def _missing(
        self, key: builtins.str, default: _D | Literal[Required.REQUIRED], needed: builtins.str
    ) -> _D:
        if default is REQUIRED:
            raise self._error(f"the {self._KIND} {key!r} is missing; {needed} is needed")
        return default

    def _bad(self, key: builtins.str, value: Any, allowed: builtins.str) -> FormatError:
        return self._error(f"the {self._KIND} {key!r} is {_show(value)}; it must be {allowed}")

    def _bad_item(
        self, key: builtins.str, index: builtins.int, value: Any, allowed: builtins.str
    ) -> FormatError:
        return self._error(
            f"item {index} of the {self._KIND} {key!r} is {_show(value)}; it must be {allowed}"
        )

    def _error(self, message: builtins.str) -> FormatError:
        return FormatError(f"{self._name}: {message}" if self._name else message)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if not _is_int(value) and not isinstance(value, float | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _inside(value: Any, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f", {minimum} or more"
    if maximum is not None:
        return f", {maximum} or less"
    return ""


def _show(value: Any) -> str:
    """The value for an error: short, and with its type, which is often what is wrong."""
    text = repr(value[:100] if isinstance(value, str | bytes) else value).replace("\n", " ")
    if len(text) > 80:
        text = text[:77] + "..."
    return f"{text} ({type(value).__name__})"
