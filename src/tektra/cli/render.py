"""What goes to the terminal and in which form: safe text, errors, JSON, sizes.

It knows nothing of models. Text that comes from a model or a file never reaches a terminal raw:
an escape sequence in it could rewrite what a person sees, or worse.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from tektra.errors import TektraError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "abandon_output",
    "console",
    "human_bytes",
    "is_terminal",
    "prepare_streams",
    "print_error",
    "print_json",
    "safe_text",
    "write_answer",
]

# Control characters are shown by their pictures (U+2400...), so that nothing is hidden. A carriage
# return goes: before a line feed it means nothing, alone it would overwrite the line.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}
_SAFE = (
    _PICTURES
    | {0x7F: "\u2421", 0x0D: None, 0x2028: "\n", 0x2029: "\n"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
    # Directional overrides and isolates reorder the text round them, also outside of the answer.
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], None)
    | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
)


def safe_text(text: str) -> str:
    """The text with control characters made visible; line feeds and tabs stay."""
    return text.translate(_SAFE)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person is at the other end; a closed stream is nobody."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def prepare_streams() -> None:
    """Makes output survive characters that the terminal's encoding does not have.

    Raises:
        TektraError: standard output is closed: there would be nothing to do.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise TektraError("standard output is closed", remedy="/dev/null takes what nobody wants")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and (stream.encoding or "").lower().replace("-", "") != "utf8":
            reconfigure(errors="replace")


def abandon_output() -> None:
    """Lets what is still to be written to standard output go nowhere, once it cannot be written.

    Otherwise the interpreter tries again at its end, and fails with a traceback.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def write_answer(text: str, stream: TextIO | None = None) -> None:
    """Writes a piece of an answer at once: as it is into a pipe or file, safe to a terminal."""
    stream = sys.stdout if stream is None else stream
    # A lone surrogate cannot be encoded, whatever the output is.
    stream.write(safe_text(text) if is_terminal(stream) else text.translate(_NO_SURROGATES))
    stream.flush()


_NO_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def print_json(value: Any) -> None:
    """Writes one JSON value and a line feed to standard output."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, allow_nan=False)
    sys.stdout.write(text.translate(_NO_SURROGATES) + "\n")
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """A rich console on standard output or standard error, with markup and highlighting off."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_error(error: TektraError) -> None:
    """Writes the message and the remedy to standard error."""
    print(f"error: {safe_text(error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  {safe_text(error.remedy)}", file=sys.stderr)
    sys.stderr.flush()


def human_bytes(count: int) -> str:
    """A number of bytes for a person: ``93.8 MiB``."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
