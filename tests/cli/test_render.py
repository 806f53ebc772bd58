"""What reaches a terminal: no control characters from a model or a file."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tektra.cli.line_editor import BLOCK, PlainReader, is_open_block, without_quotes
from tektra.cli.render import human_bytes, print_error, safe_text, write_answer
from tektra.errors import TektraError


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "attack",
    [
        "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x07", "\x9b31m", "\x1bP+q\x1b\\",
        "safe\rEVIL", "\b\b\b", "\x7f", "\u202eevil", "\x00", "\x0e", "\u2066x",
    ],
)  # fmt: skip
def test_control_characters_do_not_reach_a_terminal(attack: str) -> None:
    stream = TerminalStream()
    for character in attack:  # an escape sequence may be spread over chunks
        write_answer(character, stream)
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in stream.getvalue())
    assert "\u202e" not in stream.getvalue()
    assert "\u2066" not in stream.getvalue()


@given(st.text())
def test_safe_text_can_be_encoded_and_keeps_what_is_harmless(text: str) -> None:
    safe = safe_text(text)
    safe.encode()
    assert safe_text(safe) == safe
    assert not any(c in safe for c in "\x1b\r\x07\x9b")


def test_ordinary_text_is_left_alone() -> None:
    text = "Zeile\n\tTab – é 漢字 👩‍👩‍👧 العربية"
    assert safe_text(text) == text


def test_a_file_gets_what_the_model_said() -> None:
    stream = io.StringIO()
    write_answer("a\x1b[31m\r\n\udcff", stream)
    assert stream.getvalue() == "a\x1b[31m\r\n\ufffd"


def test_errors_are_made_safe(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(TektraError("bad \x1b[2J file", remedy="do\x07 this"))
    err = capsys.readouterr().err
    assert err == "error: bad ␛[2J file\n  do␇ this\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (98362432, "93.8 MiB"),
     (1 << 40, "1,024.0 GiB")],
)  # fmt: skip
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("plain\n", "plain"),
        ("crlf\r\n", "crlf"),
        ('"""one line"""\n', "one line"),
        ('"""\nfirst\n  second\n"""\n', "first\n  second"),
        ('"""first\n\nlast"""\n', "first\n\nlast"),
        ("no newline at the end", "no newline at the end"),
        ('say """hi"""\n', 'say """hi"""'),
    ],
)
def test_lines_and_blocks_are_read(typed: str, expected: str) -> None:
    reader = PlainReader(io.StringIO(typed), io.StringIO())
    assert reader() == expected
    with pytest.raises(EOFError):
        reader()


def test_a_block_that_is_not_closed_ends_with_the_input() -> None:
    with pytest.raises(EOFError):
        PlainReader(io.StringIO('"""\nopen'), io.StringIO())()


@given(st.text(alphabet='"a\n ', max_size=12))
def test_a_closed_block_loses_its_quotes_only(text: str) -> None:
    if text.strip().startswith(BLOCK) and not is_open_block(text):
        assert without_quotes(text) == text.strip()[3:-3].strip("\r\n")
    else:
        assert without_quotes(text) == text
