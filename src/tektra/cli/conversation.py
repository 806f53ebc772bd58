"""The messages of a chat, and their file form.

It knows neither models nor terminals. The file is JSON: ``{"format": "tektra-chat", "version": 1,
"model": ..., "system": ..., "messages": [{"role": "user" | "assistant", "content": ...}]}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tektra.errors import FormatError, TektraError

__all__ = ["Conversation", "read_conversation", "write_conversation"]

_FORMAT = "tektra-chat"
_VERSION = 1
_ROLES = ("user", "assistant")
_MAX_FILE_BYTES = 1 << 28


@dataclass(slots=True)
class Conversation:
    """A system prompt, and what was said after it.

    Attributes:
        system: None where there is none.
        messages: (role, content) in order; roles are ``"user"`` and ``"assistant"``.
    """

    system: str | None = None
    messages: list[tuple[str, str]] = field(default_factory=list)

    def for_model(self) -> list[dict[str, str]]:
        """The messages as `LLM.chat` takes them."""
        system = [("system", self.system)] if self.system is not None else []
        return [{"role": role, "content": content} for role, content in [*system, *self.messages]]

    def drop_answer(self) -> bool:
        """Takes the last answer back, if the last message is one or a question without one.

        Returns whether there is now a question at the end.
        """
        if self.messages and self.messages[-1][0] == "assistant":
            self.messages.pop()
        return bool(self.messages) and self.messages[-1][0] == "user"

    def drop_exchange(self) -> bool:
        """Takes the last question and its answer back; returns whether there was one."""
        if not self.drop_answer():
            return False
        self.messages.pop()
        return True


def write_conversation(
    path: Path, conversation: Conversation, *, model: str, replace: bool
) -> None:
    """Writes a chat to a file that is either whole or not there.

    Raises:
        TektraError: the file is there and ``replace`` is False, or it cannot be written.
    """
    data = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": model,
        "system": conversation.system,
        "messages": [{"role": r, "content": c} for r, c in conversation.messages],
    }
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    if path.exists() and not replace:
        raise TektraError(f"{path} is there already", remedy="choose another name")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        reason = error.strerror or error
        raise TektraError(f"the chat cannot be written to {path}: {reason}") from None


def read_conversation(path: Path) -> Conversation:
    """Reads a chat from a file.

    Raises:
        TektraError: the file cannot be read.
        FormatError: it does not hold a chat.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TektraError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise FormatError(f"{path} is longer than 256 MiB")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is not JSON", remedy="load a file that /save wrote") from None
    return _conversation(path, data)


def _conversation(path: Path, data: Any) -> Conversation:
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise FormatError(f"{path} is not a saved chat", remedy="load a file that /save wrote")
    if data.get("version") != _VERSION:
        raise FormatError(f"{path}: version {data.get('version')!r} of the format is not known")
    system, items = data.get("system"), data.get("messages")
    if system is not None and not isinstance(system, str):
        raise FormatError(f"{path}: 'system' is not text")
    if not isinstance(items, list):
        raise FormatError(f"{path}: 'messages' is not a list")
    messages: list[tuple[str, str]] = []
    for number, item in enumerate(items):
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if role not in _ROLES or not isinstance(content, str):
            raise FormatError(
                f"{path}: messages[{number}] needs a role of {' or '.join(_ROLES)} and a text"
            )
        messages.append((role, content))
    return Conversation(system, messages)
