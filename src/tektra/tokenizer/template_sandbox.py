"""The sandbox that chat templates run in: what they may reach, and what it costs.

Everything that a template can do is on a list (attributes by type, callables by type, filters,
functions); everything on a list that can grow or go on is paid for out of a budget. It knows
values and costs, not messages.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, MethodType
from typing import Any, Final

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from tektra.errors import TemplateLimitError
from tektra.tokenizer.template_budget import budget_of, measure
from tektra.tokenizer.template_compiler import (
    GenerationTag,
    MeteredCodeGenerator,
    refuse_unsupported,
)
from tektra.tokenizer.template_filters import FILTERS, TESTS, GroupTuple
from tektra.tokenizer.template_functions import FUNCTIONS, TemplateFunction
from tektra.tokenizer.template_methods import BoundMethod, find_method, format_percent, joined

__all__ = ["MeteredEnvironment"]

_MAX_INT_BITS: Final = 4096

# Attributes of Jinja's own objects; of data, only methods in the table of methods.
_ATTRIBUTES: Final[Mapping[type, frozenset[str]]] = MappingProxyType(
    {
        LoopContext: frozenset(
            [
                "index",
                "index0",
                "revindex",
                "revindex0",
                "first",
                "last",
                "length",
                "depth",
                "depth0",
                "previtem",
                "nextitem",
                "cycle",
                "changed",
            ]
        ),
        Macro: frozenset({"name", "arguments", "catch_kwargs", "catch_varargs", "caller"}),
        Cycler: frozenset({"current", "next", "reset"}),
        GroupTuple: frozenset({"grouper", "list"}),
        BlockReference: frozenset({"super"}),
    }
)
_CALLABLE: Final = (Macro, LoopContext, BlockReference, Joiner)
_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "lteq": operator.le,
        "gt": operator.gt,
        "gteq": operator.ge,
    }
)
_KEY_TYPES: Final = (str, int, float, bool, type(None))


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """A Jinja environment set up as transformers does it, in which nothing is free.

    Raises, while a template is rendered:
        TemplateLimitError: the budget is spent.
        SecurityError: the template reaches for something that is not on a list.
    """

    code_generator_class = MeteredCodeGenerator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # Nothing is worked out at compile time, where no budget is.
            optimized=False,
            finalize=_finalize,
            extensions=[GenerationTag, LoopControlExtension],
            cache_size=0,
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = dict(FUNCTIONS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        refuse_unsupported(template)
        return template

    # Hooks of the code generator

    def enter_block(self, context: Context, literal_chars: int) -> None:
        """A block (of a loop, a branch, a macro) begins."""
        budget = budget_of(context)
        budget.tick()
        budget.charge(literal_chars)

    def join_parts(self, context: Context, parts: tuple[Any, ...]) -> str:
        """``a ~ b``."""
        budget_of(context).tick()
        return joined(budget_of(context), "", list(parts))

    def compare(self, context: Context, left: Any, *operands: tuple[str, Any]) -> Any:
        """``a < b <= c``, ``a in b``..."""
        budget = budget_of(context)
        result: Any = True
        for name, right in operands:
            budget.tick()
            if name in ("in", "notin"):
                result = self._contains(context, left, right) is (name == "in")
            else:
                if not (isinstance(left, str) and isinstance(right, str)):
                    budget.tick(self._items(context, left) + self._items(context, right))
                result = _COMPARE[name](left, right)
            if not result:
                break
            left = right
        return result

    def slice(self, context: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """``value[start:stop:step]``."""
        budget = budget_of(context)
        budget.tick()
        part = slice(start, stop, step)
        if isinstance(value, str | list | tuple):
            length = len(range(*part.indices(len(value))))
            if isinstance(value, str):
                budget.charge(length)
            else:
                budget.charge_items(length)
        elif not isinstance(value, Undefined | range):
            raise TypeError(f"a {type(value).__name__} cannot be sliced")
        return value[part]

    def key(self, value: Any) -> Any:
        """A key of a dict that the template writes down."""
        if not isinstance(value, _KEY_TYPES):
            raise TypeError(f"a {type(value).__name__} cannot be a key")
        return value

    # What a template may reach

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if attribute.startswith("_"):
            raise SecurityError(f"the attribute {attribute!r} is out of reach")
        method = find_method(obj, attribute)
        if method is not None:
            return method
        if isinstance(obj, Namespace):
            return _namespace_item(obj, attribute, self.undefined(obj="namespace", name=attribute))
        if isinstance(obj, TemplateReference):
            return obj[attribute]
        for kind, names in _ATTRIBUTES.items():
            if isinstance(obj, kind):
                if attribute in names:
                    return getattr(obj, attribute)
                return self.undefined(obj=obj, name=attribute)
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if isinstance(argument, _KEY_TYPES) and isinstance(obj, str | list | tuple | dict | range):
            try:
                return obj[argument]  # type: ignore[index]
            except (TypeError, LookupError):
                pass
        if isinstance(argument, str):
            return self.getattr(obj, argument)
        return self.undefined(obj=obj, name=argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(__context)
        budget.tick()
        if isinstance(__obj, BoundMethod | TemplateFunction):
            # What Jinja passes on for functions that take the context; these do not.
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return __obj.run(budget, *args, **kwargs)
        owner = __obj.__self__ if isinstance(__obj, MethodType) else None
        if isinstance(__obj, _CALLABLE) or isinstance(owner, LoopContext | Cycler):
            if isinstance(owner, LoopContext):
                for arg in args:
                    budget.tick(__self._items(__context, arg))
            return __context.call(__obj, *args, **kwargs)
        if isinstance(__obj, Undefined):
            return __obj()
        raise SecurityError(f"a {type(__obj).__name__.lower()} cannot be called")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = budget_of(context)
        budget.tick()
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.charge(len(left) + len(right))
        elif operator == "+" and isinstance(left, list | tuple) and isinstance(right, list | tuple):
            budget.charge_items(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            return format_percent(budget, left, right)
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str) and isinstance(times, int):
                    budget.charge(len(value) * times)
                elif isinstance(value, list | tuple) and isinstance(times, int):
                    budget.charge_items(len(value) * times)
        if isinstance(left, int) and isinstance(right, int):
            _check_int_size(operator, left, right)
        return self.binop_table[operator](left, right)

    # Costs

    def _contains(self, context: Context, item: Any, values: Any) -> bool:
        budget = budget_of(context)
        if isinstance(values, list | tuple):
            for value in values:
                if value is item or self.compare(context, value, ("eq", item)):
                    return True
            return False
        if isinstance(values, dict):
            budget.tick(self._items(context, item))
        elif isinstance(values, Iterator):
            return self._contains(context, item, list(_ticking(context, values)))
        return item in values

    def _items(self, context: Context, value: Any) -> int:
        """Places in a value, as steps; zero for what is no list or dict."""
        if not isinstance(value, list | tuple | dict):
            return 0
        size = measure(value, budget_of(context).chars_left)
        return size.items


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """What ``{{ value }}`` writes."""
    budget = budget_of(context)
    budget.tick()
    if isinstance(value, str):
        budget.charge(len(value))
        return value
    size = measure(value, budget.chars_left)
    budget.charge(size.chars + 2 * size.items)
    return value


def _namespace_item(namespace: Namespace, name: str, missing: Any) -> Any:
    attributes: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return attributes.get(name, missing)


def _ticking(context: Context, values: Iterator[Any]) -> Iterator[Any]:
    budget = budget_of(context)
    for value in values:
        budget.tick()
        budget.charge_items(1)
        yield value


def _check_int_size(name: str, left: int, right: int) -> None:
    bits = 0
    if name == "*":
        bits = left.bit_length() + right.bit_length()
    elif name == "**" and right > 0:
        bits = left.bit_length() * right
    if bits > _MAX_INT_BITS:
        raise TemplateLimitError(f"the chat template makes a number of more than {bits - 1} bits")
