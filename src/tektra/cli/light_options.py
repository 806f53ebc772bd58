"""Reads plain text and numbers on the command line without building a validator for each option.

Typer makes a pydantic validator for every option of the command that runs, used or not, which takes
longer than reading a model. What is not plainly right still goes through it, so that every refusal
reads as Typer has it. It knows no option by name.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["lightened"]

_NUMBERS: dict[Any, re.Pattern[str]] = {
    int: re.compile(r"[+-]?[0-9]{1,18}"),
    float: re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,3})?"),
}


def lightened(params: list[Any]) -> list[Any]:
    """The options, made to read plain values at once where this Typer can be told so."""
    for param in params:
        if getattr(param, "_runtime_param", param) is None and hasattr(param, "type_descriptor"):
            param._runtime_param = _Plain(param.type_descriptor)
    return params


class _Plain:
    """Takes the place of Typer's ``RuntimeParam``.

    Args:
        descriptor: Typer's description of what the option takes.
    """

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command wants it; raises what Typer raises."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        wanted = self._descriptor.annotation
        if not several and isinstance(value, str) and value.isascii():
            if wanted is str:
                return value
            if wanted in _NUMBERS and _NUMBERS[wanted].fullmatch(value):
                return wanted(value)
        if not several and type(value) is wanted:
            return value  # a default
        from typer._coercion import build_runtime_param

        return build_runtime_param(self._descriptor).coerce(value, param=param, ctx=ctx)
