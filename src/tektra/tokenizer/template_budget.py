"""What rendering one chat template may cost: steps, characters and time.

Counts what it is told of; where the counting happens is the business of the sandbox.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, final

from jinja2 import Undefined
from jinja2.runtime import Context

from tektra.errors import TemplateError, TemplateLimitError

__all__ = ["Budget", "Size", "budget_of", "measure", "with_budget"]

_MAX_STEPS: Final = 1_000_000
_BASE_CHARS: Final = 4_000_000
_CHARS_PER_INPUT_CHAR: Final = 32
_MAX_SECONDS: Final = 2.0
_ITEM_CHARS: Final = 8
"""What one reference in a list counts as, in characters: about its bytes."""

_ITEM_COST: Final = 16
"""What going through one place in a list counts as, in characters: about its time."""

# Not an identifier: a template can neither read nor shadow it.
_KEY: Final = "tektra budget"


@final
class Budget:
    """What is left of the work that one rendering may do.

    Args:
        num_input_chars: characters of the messages; templates copy these several times.

    The limits are far above what published templates need (a few thousand steps), and low
    enough that a hostile one ends within two seconds and a few hundred megabytes.
    """

    __slots__ = ("_chars", "_deadline", "_max_chars", "_steps")

    def __init__(self, num_input_chars: int) -> None:
        self._steps = _MAX_STEPS
        self._max_chars = _BASE_CHARS + _CHARS_PER_INPUT_CHAR * num_input_chars
        self._chars = self._max_chars
        self._deadline = time.monotonic() + _MAX_SECONDS

    @property
    def chars_left(self) -> int:
        return self._chars

    def tick(self, steps: int = 1) -> None:
        """Counts steps, and looks at the clock.

        Raises:
            TemplateLimitError: there have been too many, or time is up.
        """
        self._steps -= steps
        if self._steps < 0:
            raise TemplateLimitError(f"the chat template takes more than {_MAX_STEPS} steps")
        if time.monotonic() > self._deadline:
            raise TemplateLimitError(f"the chat template runs for more than {_MAX_SECONDS} s")

    def charge(self, chars: int) -> None:
        """Counts characters that are about to be made or gone through.

        Raises:
            TemplateLimitError: there have been too many.
        """
        if chars > self._chars:
            raise TemplateLimitError(
                f"the chat template makes more than {self._max_chars} characters"
            )
        self._chars -= max(chars, 0)

    def charge_items(self, count: int) -> None:
        """Counts places in a list that is about to be made."""
        self.charge(count * _ITEM_CHARS)


def with_budget(variables: Mapping[str, object], budget: Budget) -> dict[str, object]:
    """Variables of a template together with its budget."""
    return {**variables, _KEY: budget}


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that a context belongs to."""
    budget = context.parent[_KEY]
    assert isinstance(budget, Budget)
    return budget


@final
class Size:
    """How big a value is when written out, shared parts counted each time they appear.

    Attributes:
        chars: characters, roughly.
        items: places in lists and dicts.
        depth: levels of nesting.
    """

    __slots__ = ("chars", "depth", "items")

    def __init__(self) -> None:
        self.chars = 0
        self.items = 0
        self.depth = 0


def measure(value: object, limit: int) -> Size:
    """Size of a value.

    A list that holds another twice, that one another twice, and so on, is small in memory and
    without bound when written out. So nothing is compared, sorted, hashed or written before it
    was measured.

    Raises:
        TemplateLimitError: it is bigger than the limit.
        TemplateError: it is, or holds, something that is not data.
    """
    size = Size()
    stack: list[tuple[object, int]] = [(value, 1)]
    while stack:
        part, depth = stack.pop()
        size.depth = max(size.depth, depth)
        if isinstance(part, str):
            size.chars += len(part) + 2
        elif part is None or isinstance(part, bool | float | Undefined | range):
            size.chars += _ITEM_CHARS
        elif isinstance(part, int):
            size.chars += part.bit_length() // 3 + 2
        elif isinstance(part, list | tuple):
            size.items += len(part)
            stack.extend((item, depth + 1) for item in part)
        elif isinstance(part, dict):
            size.items += 2 * len(part)
            stack.extend((item, depth + 1) for pair in part.items() for item in pair)
        else:
            raise TemplateError(
                f"the chat template uses a {type(part).__name__.strip('_')} where data is expected"
            )
        if size.chars + _ITEM_COST * size.items > limit:
            raise TemplateLimitError("the chat template makes a value that is too big")
    return size
