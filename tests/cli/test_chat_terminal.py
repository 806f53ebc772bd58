"""The chat on a real (pseudo) terminal: line editing, keys, Ctrl-C and what the screen receives."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import FAKE_PROGRAM

if sys.platform == "win32":
    pytest.skip("pseudo terminals are POSIX", allow_module_level=True)

import pty
import termios

PROMPT_BEGINS = "\x1b[?2004h"
"""By this the line editor asks for pastes to be marked, each time it begins to read."""
TOKEN = re.compile(
    r"(?P<move>\x1b\[[0-9;?]*[ -/]*[@-~])|(?P<title>\x1b\][^\x07]*\x07)|(?P<return>\r)|(?P<text>.)",
    re.DOTALL,
)
CTRL_C, CTRL_D, ENTER, ESC = "\x03", "\x04", "\r", "\x1b"


class Screen:
    """A program on a pseudo terminal of 80 columns."""

    def __init__(self, environment: dict[str, str], *args: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80)) if hasattr(termios, "tcsetwinsize") else None
        self.process = subprocess.Popen(
            [sys.executable, FAKE_PROGRAM, *args],
            env=environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=self._own_terminal,
        )  # fmt: skip
        os.close(slave)
        self.raw = ""

    @staticmethod
    def _own_terminal() -> None:
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for_prompt(self) -> str:
        """Waits until the line editor has taken the terminal; returns what came until then."""
        return self._wait(PROMPT_BEGINS, lambda raw: raw.find(PROMPT_BEGINS))

    def wait_for(self, text: str) -> str:
        """Waits for a text, whatever moves of the cursor are in it; returns all until its end."""
        return self._wait(text, lambda raw: end_in_raw(raw, text))

    def _wait(self, what: str, find: Callable[[str], int]) -> str:
        deadline = time.monotonic() + 15
        while (end := find(self.raw)) < 0:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._master], [], [], left)[0]
            assert ready, f"{what!r} did not come; there is {self.raw!r}"
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says so when the program has ended
                data = b""
            assert data, f"the program ended before {what!r}; there is {self.raw!r}"
            if b"\x1b[6n" in data:  # where is the cursor?
                os.write(self._master, b"\x1b[1;1R")
            self.raw += data.decode("utf-8", "replace")
        seen, self.raw = self.raw[: end + 1], self.raw[end + 1 :]
        return seen

    def end(self) -> int:
        """Waits for the end of the program; what it still writes is read, so that it can."""
        deadline = time.monotonic() + 15
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.raw += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return self.process.wait(timeout=5)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


def end_in_raw(raw: str, text: str) -> int:
    """Where a text ends on the screen, if moves, colours and carriage returns are left out."""
    shown, ends = "", []
    for match in TOKEN.finditer(raw):
        if match.lastgroup == "text":
            shown += match[0]
            ends.append(match.end() - 1)
    at = shown.find(text)
    return -1 if at < 0 else ends[at + len(text) - 1]


@pytest.fixture
def screen(environment: dict[str, str]) -> Iterator[Screen]:
    made = Screen(environment, "run", "m.gguf")
    made.wait_for_prompt()
    yield made
    made.close()


def test_a_chat(screen: Screen, environment: dict[str, str]) -> None:
    screen.type("hello there" + ENTER)
    screen.wait_for("HELLO THERE")
    screen.wait_for_prompt()
    screen.type("first" + ESC + ENTER + "second" + ENTER)
    screen.wait_for("FIRST\nSECOND")
    screen.wait_for_prompt()
    screen.type('"""' + ENTER + "x" + ENTER + "y" + ENTER + '"""' + ENTER)
    screen.wait_for("X\nY")
    screen.wait_for_prompt()
    screen.type("/hepl" + ENTER)
    screen.wait_for("did you mean /help?")
    screen.wait_for_prompt()
    screen.type(CTRL_D)
    assert screen.end() == 0
    history = Path(environment["TEKTRA_STATE_DIR"]) / "chat_history"
    assert "+hello there" in history.read_text().splitlines()
    assert history.stat().st_mode & 0o777 == 0o600


def test_what_is_typed_during_an_answer_is_not_in_it(environment: dict[str, str]) -> None:
    screen = Screen(environment | {"TEKTRA_TEST_DELAY": "0.05"}, "run", "m.gguf")
    try:
        screen.wait_for_prompt()
        screen.type("a b c d e f g h i j k l m n o p" + ENTER)
        screen.wait_for("A B C")
        screen.type("typed ahead" + ENTER)
        # The pieces of the answer follow each other; then comes the line that was typed.
        assert "typed" not in screen.wait_for(" D E F G H I J K L M N O P")
        screen.wait_for("TYPED AHEAD")
        screen.wait_for_prompt()
        screen.type(CTRL_D)
        assert screen.end() == 0
    finally:
        screen.close()


def test_the_up_key_brings_back_a_line_of_an_earlier_chat(
    screen: Screen, environment: dict[str, str]
) -> None:
    screen.type("remember me" + ENTER)
    screen.wait_for("REMEMBER ME")
    screen.wait_for_prompt()
    screen.type("/bye" + ENTER)
    assert screen.end() == 0
    again = Screen(environment, "run", "m.gguf")
    try:
        again.wait_for_prompt()
        again.type("\x1b[A\x1b[A" + ENTER)
        again.wait_for("REMEMBER ME")
    finally:
        again.close()


def test_no_history(environment: dict[str, str]) -> None:
    screen = Screen(environment, "run", "m.gguf", "--no-history")
    try:
        screen.wait_for_prompt()
        screen.type("secret" + ENTER)
        screen.wait_for("SECRET")
        screen.wait_for_prompt()
        screen.type(CTRL_D)
        assert screen.end() == 0
    finally:
        screen.close()
    assert not Path(environment["TEKTRA_STATE_DIR"]).exists()


def test_ctrl_c_at_the_prompt(screen: Screen) -> None:
    screen.type("half a line" + CTRL_C + "whole" + ENTER)
    screen.wait_for("WHOLE")
    screen.wait_for_prompt()
    screen.type(CTRL_C)
    screen.wait_for("Ctrl-C again")
    screen.wait_for_prompt()
    screen.type(CTRL_C)
    assert screen.end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(environment: dict[str, str]) -> None:
    screen = Screen({**environment, "TEKTRA_TEST_DELAY": "0.05"}, "run", "m.gguf")
    try:
        screen.wait_for_prompt()
        screen.type("one two three " + "four " * 200 + ENTER)
        screen.wait_for("TWO THREE")
        screen.type(CTRL_C)
        seen = screen.wait_for("what was said so far is kept")
        assert "[cancelled]" in seen
        screen.wait_for_prompt()
        screen.type("go on" + ENTER)
        screen.wait_for("GO ON")
        screen.wait_for_prompt()
        screen.type(CTRL_D)
        assert screen.end() == 0
        assert "Traceback" not in screen.raw
    finally:
        screen.close()


def test_escape_sequences_of_the_model_do_not_reach_the_terminal(
    environment: dict[str, str],
) -> None:
    script = r"red: \e[31;1m\e]0;owned end"
    screen = Screen({**environment, "TEKTRA_TEST_SCRIPT": script}, "run", "m.gguf", "x")
    try:
        raw = screen.wait_for("end")
        assert "\x1b[31;1m" not in raw
        assert "\x1b]0;" not in raw
        assert "␛[31;1m␛]0;owned" in raw
        assert screen.end() == 0
    finally:
        screen.close()


def test_a_dumb_terminal_gets_plain_lines(environment: dict[str, str]) -> None:
    screen = Screen({**environment, "TERM": "dumb"}, "run", "m.gguf")
    try:
        screen.wait_for(">>> ")
        screen.type('"""\nline one\nline two\n"""\n')
        raw = screen.wait_for("LINE ONE\nLINE TWO")
        assert "\x1b" not in raw
        screen.wait_for(">>> ")
        screen.type("/bye\n")
        assert screen.end() == 0
    finally:
        screen.close()


def test_loading_shows_its_stages_and_cleans_up(environment: dict[str, str]) -> None:
    screen = Screen(environment, "run", "m.gguf", "done")
    try:
        raw = screen.wait_for("DONE")
        assert "map" in raw
        assert "5 / 10" in raw or "0 / 0 MiB" in raw
    finally:
        screen.close()
