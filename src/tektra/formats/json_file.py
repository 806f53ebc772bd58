"""Reads small JSON files that come with a model: whole, of bounded size, one value for each key.

It does not know what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tektra.errors import FormatError, ModelNotFoundError

__all__ = ["MAX_JSON_BYTES", "parse_json_object", "read_bounded", "read_json_object"]

MAX_JSON_BYTES = 1 << 26
"""Far above every config and index; a tokenizer.json takes some 30 MB."""


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelNotFoundError: there is no such file.
        FormatError: it cannot be read, is too large, is not JSON or not an object, or has a key
            twice.
    """
    return parse_json_object(read_bounded(path, max_bytes=max_bytes), name=path.name)


def read_bounded(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes; raises as `read_json_object`."""
    try:
        if not path.is_file():
            if path.exists():
                raise FormatError(f"{str(path)!r} is not a file")
            raise ModelNotFoundError(f"there is no file {str(path)!r}")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"{str(path)!r} cannot be read: {reason}") from error
    if len(data) > max_bytes:
        raise FormatError(f"{path.name} has more than {max_bytes} bytes")
    return data


def parse_json_object(data: bytes, *, name: str) -> dict[str, Any]:
    """The object in JSON text; raises `FormatError` as `read_json_object` does."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise FormatError(f"{name}: the key {twice[:80]!r} is there twice")
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise FormatError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise FormatError(f"{name} is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{name} is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{name} is not a JSON object")
    return value
