"""Methods of strings, lists and dicts that chat templates may call, with their costs.

A closed table: a method that is not in it does not exist for a template. Nothing that changes
a value is in it, and what makes text longer is paid for first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, final

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from tektra.errors import TemplateLimitError
from tektra.tokenizer.template_budget import Budget, measure

__all__ = ["BoundMethod", "find_method", "format_percent", "joined"]

_Method = Callable[..., Any]

# Widths and precisions of four digits or more, or taken from an argument.
_WIDE_PERCENT: Final = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(?:\*|\d{4,}|\d*\.(?:\*|\d{4,}))")
_BRACE_FIELD: Final = re.compile(r"\{(\d*|[A-Za-z][A-Za-z0-9_]*)(?:![rsa])?(?::([^{}]*))?\}")
_WIDE_SPEC: Final = re.compile(r"\d{4,}")


@final
class BoundMethod:
    """A method of a value, to be called through the sandbox, which pays for it."""

    __slots__ = ("_function", "_name", "_value")

    def __init__(self, value: object, name: str, function: _Method) -> None:
        self._value = value
        self._name = name
        self._function = function

    def __repr__(self) -> str:
        return f"<method {self._name}>"

    def run(self, budget: Budget, *args: Any, **kwargs: Any) -> Any:
        for arg in (*args, *kwargs.values()):
            if isinstance(arg, Undefined):
                str(arg)  # raises where undefined values are strict
        return self._function(budget, self._value, *args, **kwargs)


def find_method(value: object, name: str) -> BoundMethod | None:
    """The method of that name that a template may call on a value, if there is one."""
    for kind, methods in _METHODS.items():
        if isinstance(value, kind):
            function = methods.get(name)
            return None if function is None else BoundMethod(value, name, function)
    return None


def format_percent(budget: Budget, template: str, args: Any) -> str:
    """``template % args``."""
    if _WIDE_PERCENT.search(template):
        raise TemplateLimitError("the chat template pads text to a width of 1000 or more")
    size = measure(args, budget.chars_left)
    # Each field may write all of the arguments, and pad them to 999.
    fields = template.count("%")
    budget.charge(len(template) + fields * (size.chars + size.items + 999))
    return template % args  # type: ignore[no-any-return]


def joined(budget: Budget, separator: str, values: list[Any]) -> str:
    """Texts of values with a separator between them."""
    size = measure(values, budget.chars_left)
    budget.charge(size.chars + size.items + len(values) * len(separator))
    return separator.join(map(str, values))


def _same_size(name: str) -> _Method:
    """A method whose result is about as long as the text."""
    method = getattr(str, name)

    def run(budget: Budget, text: str, *args: Any) -> Any:
        budget.charge(len(text))
        return method(text, *args)

    return run


def _looks(name: str) -> _Method:
    """A method that only looks at the text."""
    method = getattr(str, name)

    def run(budget: Budget, text: str, *args: Any) -> Any:
        budget.tick()
        return method(text, *args)

    return run


def _splits(name: str) -> _Method:
    """A method that cuts the text into a list."""
    method = getattr(str, name)

    def run(budget: Budget, text: str, *args: Any, **kwargs: Any) -> Any:
        separator = args[0] if args else kwargs.get("sep")
        if isinstance(separator, str) and separator and name != "splitlines":
            pieces = text.count(separator) + 1
        else:
            pieces = len(text) // 2 + 1
        # A short string takes some 50 bytes and its place in the list.
        if pieces > 1000:
            budget.charge(pieces * 16)
        budget.charge(len(text))
        return method(text, *args, **kwargs)

    return run


def _pads(name: str) -> _Method:
    """A method that makes the text as wide as it is told."""
    method = getattr(str, name)

    def run(budget: Budget, text: str, width: Any, *args: Any) -> Any:
        budget.charge(max(len(text), width if isinstance(width, int) else 0))
        return method(text, width, *args)

    return run


def _replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old) if count < 0 else min(text.count(old), count)
    budget.charge(len(text) + found * len(new))
    return text.replace(old, new, count)


def _join(budget: Budget, separator: str, values: Any) -> str:
    items = []
    for item in values:
        budget.tick()
        if not isinstance(item, str):
            raise TypeError(f"join: expected strings, got {type(item).__name__}")
        items.append(item)
    return joined(budget, separator, items)


def _format(budget: Budget, text: str, *args: Any, **kwargs: Any) -> str:
    # Fields may only name an argument: no attributes, no items, no fields inside a field.
    bare = text.replace("{{", "").replace("}}", "")
    if "{" in _BRACE_FIELD.sub("", bare) or "}" in _BRACE_FIELD.sub("", bare):
        raise SecurityError("format fields that reach into their arguments are not allowed")
    if any(_WIDE_SPEC.search(spec or "") for _, spec in _BRACE_FIELD.findall(bare)):
        raise TemplateLimitError("the chat template pads text to a width of 1000 or more")
    size = measure([args, kwargs], budget.chars_left)
    budget.charge(len(text) + text.count("{") * (size.chars + size.items + 999))
    return text.format(*args, **kwargs)


def _pairs(budget: Budget, value: Mapping[str, Any]) -> list[Any]:
    budget.charge_items(3 * len(value))
    return list(value.items())


def _keys(budget: Budget, value: Mapping[str, Any]) -> list[Any]:
    budget.charge_items(len(value))
    return list(value)


def _values(budget: Budget, value: Mapping[str, Any]) -> list[Any]:
    budget.charge_items(len(value))
    return list(value.values())


def _get(budget: Budget, value: Mapping[Any, Any], key: Any, default: Any = None) -> Any:
    budget.tick()
    measure(key, budget.chars_left)
    return value.get(key, default)


def _copy(budget: Budget, value: Any) -> Any:
    budget.charge_items(2 * len(value))
    return value.copy()


def _count_items(budget: Budget, value: Any, item: Any) -> int:
    budget.charge(measure([value, item], budget.chars_left).chars)
    return value.count(item)  # type: ignore[no-any-return]


def _index_items(budget: Budget, value: Any, item: Any) -> int:
    budget.charge(measure([value, item], budget.chars_left).chars)
    return value.index(item)  # type: ignore[no-any-return]


_STR: Final[Mapping[str, _Method]] = MappingProxyType(
    {
        name: make(name)
        for make, names in (
            (
                _same_size,
                "strip lstrip rstrip upper lower title capitalize casefold swapcase "
                "removeprefix removesuffix partition rpartition",
            ),
            (
                _looks,
                "startswith endswith find rfind index rindex count isdigit isalpha isalnum "
                "isnumeric isdecimal isspace isupper islower istitle isidentifier isascii "
                "isprintable",
            ),
            (_splits, "split rsplit splitlines"),
            (_pads, "center ljust rjust zfill"),
        )
        for name in names.split()
    }
    | {"replace": _replace, "join": _join, "format": _format}
)
_DICT: Final[Mapping[str, _Method]] = MappingProxyType(
    {"get": _get, "items": _pairs, "keys": _keys, "values": _values, "copy": _copy}
)
_LIST: Final[Mapping[str, _Method]] = MappingProxyType(
    {"count": _count_items, "index": _index_items, "copy": _copy}
)
_TUPLE: Final[Mapping[str, _Method]] = MappingProxyType(
    {"count": _count_items, "index": _index_items}
)
_METHODS: Final[Mapping[type, Mapping[str, _Method]]] = MappingProxyType(
    {str: _STR, dict: _DICT, list: _LIST, tuple: _TUPLE}
)
