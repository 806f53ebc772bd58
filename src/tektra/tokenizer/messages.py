"""Checks chat messages and copies them into plain data that a template cannot reach out of.

Knows the shape of messages; not what a template makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tektra.errors import InvalidParameterError

__all__ = ["count_chars", "map_strings", "plain_data", "plain_messages"]

_MAX_DEPTH: Final = 64
_MAX_INT_BITS: Final = 1024


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as plain dicts.

    Each has a role; its content is text, a list of parts (each with a type), or nothing.

    Raises:
        InvalidParameterError: one is not of that shape; names it, as ``messages[2].role``.
    """
    given: object = messages
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidParameterError("messages", f"expected a list of messages, got {_kind(given)}")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidParameterError(name, f"expected a mapping, got {_kind(message)}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidParameterError(f"{name}.role", f"expected text, got {_kind(role)}")
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for i, part in enumerate(content):
            at = f"{name}.content[{i}]"
            if not isinstance(part, Mapping):
                raise InvalidParameterError(at, f"expected a part, got {_kind(part)}")
            if not isinstance(part.get("type"), str):
                raise InvalidParameterError(
                    f"{at}.type", f"expected text, got {_kind(part.get('type'))}"
                )
    elif content is not None and not isinstance(content, str):
        raise InvalidParameterError(
            f"{name}.content", f"expected text, a list of parts or nothing, got {_kind(content)}"
        )
    copied: dict[str, Any] = plain_data(message, name)
    return copied


def plain_data(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of JSON-like data that holds nothing but plain types.

    Raises:
        InvalidParameterError: there is something else in it, or it is nested too deeply.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise InvalidParameterError(name, "the number is too big")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth >= _MAX_DEPTH:
        raise InvalidParameterError(name, f"nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidParameterError(name, f"expected text as keys, got {_kind(key)}")
        return {
            str.__str__(key): plain_data(item, f"{name}.{key[:40]}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain_data(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InvalidParameterError(name, f"expected plain data, got {_kind(value)}")


def count_chars(value: Any) -> int:
    """Characters in all strings of plain data."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + count_chars(item) for key, item in value.items())
    return sum(map(count_chars, value)) if isinstance(value, list) else 0


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with each string in it, keys included, replaced."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): map_strings(item, change) for key, item in value.items()}
    return [map_strings(item, change) for item in value] if isinstance(value, list) else value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
