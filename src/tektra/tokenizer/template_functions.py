"""Functions that chat templates may call by name: what Jinja and transformers offer them.

Each knows its own limits; the sandbox calls them with the budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, final

from jinja2.exceptions import SecurityError
from jinja2.utils import Cycler, Joiner, Namespace

from tektra.errors import TemplateError, TemplateLimitError
from tektra.tokenizer.template_budget import Budget, measure

__all__ = ["FUNCTIONS", "TemplateFunction"]

_MAX_RANGE: Final = 100_000
# Directives without widths: strftime pads to whatever width it is given.
_TIME_FORMAT: Final = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")
_MAX_TIME_FORMAT: Final = 256


@final
class TemplateFunction:
    """A function that the sandbox calls with the budget before its arguments."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __repr__(self) -> str:
        return "<function>"

    def run(self, budget: Budget, *args: Any, **kwargs: Any) -> Any:
        return self._function(budget, *args, **kwargs)


class _Namespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, pairs = args[0], dict(*args[1:], **kwargs)
        for name in pairs:
            _check_name(name)
        Namespace.__init__(self, pairs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _range(budget: Budget, *args: int) -> range:
    values = range(*args)
    budget.tick()
    if len(values) > _MAX_RANGE:
        raise TemplateLimitError(f"the chat template makes a range of more than {_MAX_RANGE}")
    return values


def _dict(budget: Budget, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    if len(args) > 1:
        raise TypeError("dict: expected one argument")
    pairs: Iterable[Any] = args[0] if args else ()
    if isinstance(pairs, Mapping):
        pairs = pairs.items()
    made: dict[Any, Any] = {}
    for key, value in pairs:
        budget.charge_items(2)
        measure(key, budget.chars_left)
        made[key] = value
    budget.charge_items(2 * len(kwargs))
    return made | kwargs


def _namespace(budget: Budget, *args: Any, **kwargs: Any) -> Namespace:
    return _Namespace(_dict(budget, *args, **kwargs))


def _cycler(budget: Budget, *items: Any) -> Cycler:
    budget.charge_items(len(items))
    return Cycler(*items)


def _joiner(budget: Budget, separator: str = ", ") -> Joiner:
    budget.tick()
    return Joiner(separator)


def _raise_exception(budget: Budget, message: Any = "") -> None:
    measure(message, budget.chars_left)
    raise TemplateError(f"the chat template refuses the messages: {str(message)[:500]}")


def _strftime_now(budget: Budget, form: str) -> str:
    budget.charge(len(form))
    if len(form) > _MAX_TIME_FORMAT or not _TIME_FORMAT.fullmatch(form):
        raise TemplateError("the chat template calls strftime_now with a malformed format")
    return datetime.now().strftime(form)


FUNCTIONS: Final[Mapping[str, TemplateFunction]] = MappingProxyType(
    {
        "range": TemplateFunction(_range),
        "dict": TemplateFunction(_dict),
        "namespace": TemplateFunction(_namespace),
        "cycler": TemplateFunction(_cycler),
        "joiner": TemplateFunction(_joiner),
        "raise_exception": TemplateFunction(_raise_exception),
        "strftime_now": TemplateFunction(_strftime_now),
    }
)
