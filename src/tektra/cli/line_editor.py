"""Reads what a person types in a chat: a line, or several.

It knows keys, the history file and the terminal; what the text means is for the chat to say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tektra.cli.render import is_terminal
from tektra.config import ensure_private_directory

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

__all__ = ["ReadLine", "line_reader", "typing_unseen"]

ReadLine = Callable[[], str]
"""Gives the next input; EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C at an empty prompt."""

PROMPT = ">>> "
CONTINUATION = "... "
BLOCK = '"""'
_HISTORY_FILE = "chat_history"


def line_reader(state_dir: Path | None, commands: Sequence[str]) -> ReadLine:
    """A reader for this terminal.

    Args:
        state_dir: where the history is kept between chats; None keeps it in memory only.
        commands: what the Tab key completes.
    """
    if os.environ.get("TERM", "") == "dumb" or not is_terminal(sys.stdin):
        return PlainReader(sys.stdin, sys.stdout)
    return _editing_reader(_history(state_dir), commands)


@contextmanager
def typing_unseen() -> Iterator[None]:
    """Keeps what is typed meanwhile off the screen; it is there when the next line is read."""
    if sys.platform == "win32" or not is_terminal(sys.stdin):
        yield
        return
    import termios

    try:
        before = termios.tcgetattr(sys.stdin)
    except termios.error:  # a terminal that has gone away
        yield
        return
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


class PlainReader:
    """Reads lines without any editing of its own."""

    def __init__(self, source: TextIO, prompt_to: TextIO) -> None:
        self._source = source
        self._prompt_to = prompt_to

    def __call__(self) -> str:
        lines = [self._line(PROMPT)]
        while is_open_block("\n".join(lines)):
            lines.append(self._line(CONTINUATION))
        return without_quotes("\n".join(lines))

    def _line(self, prompt: str) -> str:
        self._prompt_to.write(prompt)
        self._prompt_to.flush()
        line = self._source.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")


def is_open_block(text: str) -> bool:
    """Whether the text begins a block of lines that is not closed yet."""
    text = text.strip()
    return text.startswith(BLOCK) and (len(text) < 2 * len(BLOCK) or not text.endswith(BLOCK))


def without_quotes(text: str) -> str:
    """The text inside of a block of lines; any other text as it is."""
    stripped = text.strip()
    if not stripped.startswith(BLOCK) or is_open_block(text):
        return text
    return stripped[len(BLOCK) : -len(BLOCK)].strip("\r\n")


def _history(state_dir: Path | None) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if state_dir is None:
        return InMemoryHistory()
    try:
        path = ensure_private_directory(state_dir) / _HISTORY_FILE
        # What a person typed is nobody else's business.
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        print(f"the history of this chat is not kept: {error}", file=sys.stderr)
        return InMemoryHistory()

    class SafeHistory(FileHistory):
        """A full disk costs the history, not the chat."""

        def store_string(self, string: str) -> None:
            try:
                super().store_string(string)
            except OSError as error:
                print(f"the history of this chat is not kept: {error}", file=sys.stderr)

    return SafeHistory(str(path))


def _editing_reader(history: History, commands: Sequence[str]) -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.output import create_output

    # The answer alone goes to a redirected standard output.
    output = create_output(stdout=sys.stdout if is_terminal(sys.stdout) else sys.stderr)
    session: PromptSession[str] = PromptSession(
        history=history,
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation=CONTINUATION,
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        output=output,
    )

    def read() -> str:
        return without_quotes(session.prompt(PROMPT))

    return read


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys
