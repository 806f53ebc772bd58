"""Filters and tests that chat templates may use, with their costs.

A closed table of Jinja's own, most of them wrapped so that the value is measured first; those
that can make much out of little are written anew. It does not know who calls them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import _GroupTuple as GroupTuple
from jinja2.runtime import Context
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.utils import _PassArg

from tektra.errors import TemplateLimitError
from tektra.tokenizer.template_budget import Budget, budget_of, measure
from tektra.tokenizer.template_methods import find_method, format_percent, joined

__all__ = ["FILTERS", "TESTS", "GroupTuple"]

_Filter = Callable[..., Any]
# Tests that look at a value's type, or at one number or text: they cost next to nothing.
_JINJA_TESTS: Final[Mapping[str, Any]] = JINJA_TESTS
_MAX_INDENT: Final = 32
_MAX_PRECISION: Final = 100


def _with_context(function: _Filter) -> _Filter:
    """Calls one of Jinja's functions with what it wants to be given first."""
    wanted = _PassArg.from_obj(function)

    def run(context: Context, *args: Any, **kwargs: Any) -> Any:
        first = {
            None: (),
            _PassArg.context: (context,),
            _PassArg.eval_context: (context.eval_ctx,),
            _PassArg.environment: (context.environment,),
        }
        return function(*first[wanted], *args, **kwargs)

    return run


def _shallow(function: _Filter) -> _Filter:
    """A filter that takes the same time whatever its value holds, or only passes it on."""
    run = _with_context(function)

    @pass_context
    def wrapped(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget_of(context).tick()
        return run(context, *args, **kwargs)

    return wrapped


def _deep(function: _Filter) -> _Filter:
    """A filter that goes through all of its value, and makes no more than it."""
    run = _with_context(function)

    @pass_context
    def wrapped(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        value = _listed(budget, value)
        for part in (value, *args, *kwargs.values()):
            size = measure(part, budget.chars_left)
            budget.charge(size.chars + 2 * size.items)
        return run(context, value, *args, **kwargs)

    return wrapped


def _own(function: Callable[..., Any]) -> _Filter:
    """A filter of this file, which takes the budget."""

    @pass_context
    def wrapped(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        return function(budget, _listed(budget, value), *args, **kwargs)

    return wrapped


def _listed(budget: Budget, value: Any) -> Any:
    """Values that are made on demand, as a list; others as they are."""
    budget.tick()
    if not isinstance(value, Iterator):
        return value
    items = []
    for item in value:
        budget.tick()
        budget.charge_items(1)
        items.append(item)
    return items


def _text(budget: Budget, value: Any) -> str:
    size = measure(value, budget.chars_left)
    budget.charge(size.chars + 2 * size.items)
    return value if isinstance(value, str) else str(value)


def _method(name: str) -> Callable[..., Any]:
    """A filter that is a method of its text."""

    def run(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> Any:
        method = find_method(_text(budget, value), name)
        assert method is not None
        return method.run(budget, *args, **kwargs)

    return run


def _center(budget: Budget, value: Any, width: int = 80) -> str:
    text = _text(budget, value)
    budget.charge(width)
    return text.center(width)


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    return _method("replace")(
        budget, value, _text(budget, old), _text(budget, new), -1 if count is None else count
    )


def _indent(
    budget: Budget, value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> Any:
    text = _text(budget, value)
    lines = text.count("\n") + text.count("\r") + 2
    budget.charge(lines * (len(width) if isinstance(width, str) else width))
    return JINJA_FILTERS["indent"](text, width, first, blank)


def _format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("format: positional and named arguments together")
    return format_percent(budget, _text(budget, value), kwargs or args)


def _list(budget: Budget, value: Any) -> list[Any]:
    if isinstance(value, str):
        budget.charge(16 * len(value))
    elif isinstance(value, list | tuple | dict | range):
        budget.charge_items(len(value))
    return list(value)


def _items(budget: Budget, value: Any) -> list[Any]:
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, dict):
        raise TypeError("items: expected a mapping")
    budget.charge_items(3 * len(value))
    return list(value.items())


def _batch(budget: Budget, value: Any, linecount: int, fill_with: Any = None) -> list[Any]:
    budget.charge_items(2 * len(value) + (0 if fill_with is None else linecount))
    return list(JINJA_FILTERS["batch"](value, linecount, fill_with))


def _slice(budget: Budget, value: Any, slices: int, fill_with: Any = None) -> list[Any]:
    budget.charge_items(2 * len(value) + 8 * slices)
    return list(JINJA_FILTERS["slice"](value, slices, fill_with))


def _reverse(budget: Budget, value: Any) -> Any:
    if isinstance(value, str):
        budget.charge(len(value))
        return value[::-1]
    budget.charge_items(len(value))
    return list(reversed(value))


def _round(budget: Budget, value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > _MAX_PRECISION:
        raise TemplateLimitError(f"the chat template rounds to more than {_MAX_PRECISION} places")
    budget.tick()
    return JINJA_FILTERS["round"](value, precision, method)


def _escape(budget: Budget, value: Any) -> str:
    text = _text(budget, value)
    budget.charge(5 * len(text))
    return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it: no escapes for HTML, characters as they are."""
    size = measure(value, budget.chars_left)
    width = len(indent) if isinstance(indent, str) else (indent or 0)
    if width > _MAX_INDENT:
        raise TemplateLimitError(f"the chat template indents by more than {_MAX_INDENT}")
    between = sum(map(len, separators)) if separators else 2
    # A character may be written as \uXXXX twice; each item on a line of its own.
    budget.charge(
        size.chars * (12 if ensure_ascii else 2) + size.items * (between + 1 + width * size.depth)
    )
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@pass_context
def _join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = budget_of(context)
    if attribute is not None:
        value = context.environment.call_filter(
            "map", value, kwargs={"attribute": attribute}, context=context
        )
    items = _listed(budget, value)
    if not isinstance(items, list | tuple):
        items = _list(budget, items)
    return joined(budget, _text(budget, d), list(items))


@pass_context
def _sum(context: Context, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    if attribute is not None:
        value = context.environment.call_filter(
            "map", value, kwargs={"attribute": attribute}, context=context
        )
    environment: Any = context.environment
    for item in _listed(budget_of(context), value):
        start = environment.call_binop(context, "+", start, item)
    return start


@pass_context
def _attr(context: Context, value: Any, name: Any) -> Any:
    budget_of(context).tick()
    return context.environment.getattr(value, str(name))


def _compares(name: str) -> _Filter:
    @pass_context
    def wrapped(context: Context, value: Any, other: Any) -> Any:
        environment: Any = context.environment
        return environment.compare(context, value, (name, other))

    return wrapped


def _is_case(looks: Callable[[str], bool]) -> _Filter:
    @pass_context
    def wrapped(context: Context, value: Any) -> bool:
        return looks(_text(budget_of(context), value))

    return wrapped


def _names(names: str) -> list[str]:
    return names.split()


FILTERS: Final[Mapping[str, _Filter]] = MappingProxyType(
    {
        name: _shallow(JINJA_FILTERS[name])
        for name in _names(
            "abs count d default first float int last length map reject rejectattr "
            "select selectattr"
        )
    }
    | {
        name: _deep(JINJA_FILTERS[name])
        for name in _names(
            "dictsort filesizeformat groupby max min sort truncate unique urlencode wordcount"
        )
    }
    | {name: _own(_method(name)) for name in ("capitalize", "lower", "upper")}
    | {
        "attr": _attr,
        "batch": _own(_batch),
        "center": _own(_center),
        "e": _own(_escape),
        "escape": _own(_escape),
        "forceescape": _own(_escape),
        "format": _own(_format),
        "indent": _own(_indent),
        "items": _own(_items),
        "join": _join,
        "list": _own(_list),
        "replace": _own(_replace),
        "reverse": _own(_reverse),
        "round": _own(_round),
        "safe": _own(_text),
        "slice": _own(_slice),
        "string": _own(_text),
        "sum": _sum,
        "title": _deep(JINJA_FILTERS["title"]),
        "tojson": _own(_to_json),
        "trim": _own(_method("strip")),
    }
)
"""Filters by name."""

TESTS: Final[Mapping[str, _Filter]] = MappingProxyType(
    {
        name: _JINJA_TESTS[name]
        for name in _names(
            "boolean callable defined divisibleby even false filter float integer "
            "iterable mapping none number odd sameas sequence string test true "
            "undefined"
        )
    }
    | {"lower": _is_case(str.islower), "upper": _is_case(str.isupper)}
    | {
        alias: _compares(name)
        for name, aliases in {
            "eq": "eq == equalto",
            "ne": "ne !=",
            "gt": "gt > greaterthan",
            "gteq": "ge >=",
            "lt": "lt < lessthan",
            "lteq": "le <=",
            "in": "in",
        }.items()
        for alias in aliases.split()
    }
)
"""Tests by name."""
