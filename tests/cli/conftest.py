"""What the tests of the command line share: the tiny model, the fake one, a clean environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.fake_llm import FakeLLM
from tests.fixtures.tiny_model import write_tiny_model
from typer.testing import CliRunner, Result

from tektra.cli.main import app
from tektra.config import VARIABLES

Invoke = Callable[..., Result]
FAKE_PROGRAM = str(Path(__file__).parent / "fake_llm.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TEKTRA_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("cli") / "tiny.gguf")


@pytest.fixture
def invoke() -> Invoke:
    """Runs a command in this process; an exception that nobody expected is raised here."""

    def run(*args: str | Path, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(
            app, [str(arg) for arg in args], input=input, prog_name="tektra"
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[FakeLLM]:
    """Puts the fake model in the place of the real one; the list gets each that is loaded."""
    import tektra.llm

    loaded: list[FakeLLM] = []

    def make(reference: str, **options: object) -> FakeLLM:
        loaded.append(FakeLLM(reference, **options))
        return loaded[-1]

    monkeypatch.setattr(tektra.llm, "LLM", make)
    return loaded


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """For programs that are started: this tree first, nothing of this user's."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TEKTRA_")}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, sys.path)])
    return {
        **environ,
        "PYTHONPATH": path,
        "TEKTRA_CACHE_DIR": str(tmp_path / "cache"),
        "TEKTRA_STATE_DIR": str(tmp_path / "state"),
        "COLUMNS": "80",
        "TERM": "xterm",
    }
