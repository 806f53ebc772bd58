"""Options are read without pydantic where they are plain, and as Typer reads them otherwise."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st
from tests.cli.conftest import Invoke
from tests.cli.fake_llm import FakeLLM
from typer.core import TyperCommand

from tektra.cli.light_options import lightened


class Light(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return lightened(super().get_params(ctx))


def parse(cls: type[TyperCommand], *arguments: str) -> object:
    """What a command is called with, or how it refuses."""
    seen: dict[str, Any] = {}
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command(cls=cls)
    def command(
        text: str = typer.Argument("default"),
        number: int = typer.Option(3, "--number"),
        real: float = typer.Option(0.5, "--real"),
        maybe: int | None = typer.Option(None, "--maybe"),
        many: list[str] | None = typer.Option(None, "--many"),
        ids: list[int] | None = typer.Option(None, "--ids"),
        flag: bool = typer.Option(False, "--flag"),
    ) -> None:
        seen.update(locals())
        seen.pop("seen", None)

    try:
        typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    except Exception as error:
        return type(error).__name__, str(error)
    return {name: (type(value), value) for name, value in seen.items()}


NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.text("0123456789+-._e \u0663x", max_size=8),
    st.sampled_from(["", "007", "1_000", " 5", "1e5", "1.", ".5", "inf", "-nan", "0x10", "9" * 30]),
)


@given(value=NUMBERS, name=st.sampled_from(["--number", "--real", "--maybe", "--ids"]))
@example(value="1_000", name="--number")
@example(value="12", name="--maybe")
def test_numbers(value: str, name: str) -> None:
    arguments = (f"{name}={value}",)
    light, plain = parse(Light, *arguments), parse(TyperCommand, *arguments)
    # NaN differs from itself
    assert repr(light) == repr(plain)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("hello",),
        ("caf\u00e9",),
        ("bad\udcff",),
        ("",),
        ("x", "--many", "a", "--many", "b", "--flag"),
        ("x", "--ids", "1", "--ids", "2"),
        ("--ids", "one"),
        ("--nothing",),
        ("x", "y"),
        ("--number",),
    ],
)
def test_everything_else(arguments: tuple[str, ...]) -> None:
    assert parse(Light, *arguments) == parse(TyperCommand, *arguments)


def test_a_command_does_without_pydantic(environment: dict[str, str]) -> None:
    program = (
        "import sys\nfrom tektra.cli.main import app\n"
        "try:\n    app(['run', 'no/such.gguf', 'hi', '--top-k', '5', '--temperature', '0.5'])\n"
        "except SystemExit as end:\n    print(end.code, 'pydantic' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1 False\n"


def test_the_program_refuses_as_before(invoke: Invoke, fake: list[FakeLLM]) -> None:
    result = invoke("run", "model", "hi", "--top-k", "five")
    assert result.exit_code == 2
    assert "'--top-k'" in result.stderr
    assert "valid integer" in result.stderr
    assert not fake


def test_another_typer_is_left_alone() -> None:
    class Other:
        pass

    params: list[Any] = [Other()]
    assert lightened(params) is params
    assert vars(params[0]) == {}
