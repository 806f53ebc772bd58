"""docs/cli.md says what the program does. `python -m tests.cli.test_docs` writes the help anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tektra.cli.chat_commands import COMMANDS
from tektra.cli.main import app
from tektra.config import VARIABLES
from tektra.hub import load_catalog

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
_BLOCK = re.compile(r"^```help (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def help_of(command: str) -> str:
    """The help of a command at 80 columns, without blank lines round it."""
    return CliRunner().invoke(app, [command, "--help"], prog_name="tektra").stdout.strip("\n")


def rewritten(text: str) -> str:
    """The document with the help as it is now."""
    return _BLOCK.sub(lambda block: f"```help {block[1]}\n{help_of(block[1])}\n```", text)


def commands() -> list[str]:
    return [command.callback.__name__ for command in app.registered_commands if command.callback]


def test_every_command_is_described() -> None:
    assert [block[1] for block in _BLOCK.finditer(DOCUMENT.read_text("utf-8"))] == commands()


@pytest.mark.parametrize("command", commands())
def test_the_help_is_that_of_the_program(command: str) -> None:
    blocks = {block[1]: block[2] for block in _BLOCK.finditer(DOCUMENT.read_text("utf-8"))}
    assert blocks[command].strip("\n") == help_of(command), "run: python -m tests.cli.test_docs"


def test_variables_chat_commands_and_aliases_are_described() -> None:
    text = DOCUMENT.read_text("utf-8")
    for variable in VARIABLES:
        assert f"| `{variable.name}` | {variable.meaning} |" in text
    for name, command in COMMANDS.items():
        assert f"| `/{name} {command.argument}".rstrip() + "` |" in text
    for entry in load_catalog().entries:
        assert entry.alias in text


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), encoding="utf-8")
