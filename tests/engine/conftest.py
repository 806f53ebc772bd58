"""Fixtures of the engine tests: a tiny model file, and an engine over an executable without one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # the tests share helpers as tests.fixtures.*
    sys.path.insert(0, str(ROOT))

from tests.fixtures.fake_executable import FakeExecutable  # noqa: E402
from tests.fixtures.tiny_model import write_tiny_model  # noqa: E402

from tektra.backends.base import CompileOptions  # noqa: E402
from tektra.engine.engine import Engine  # noqa: E402
from tektra.engine.options import EngineOptions  # noqa: E402
from tektra.formats.gguf import GGUFFile  # noqa: E402
from tektra.tokenizer import Tokenizer, load_from_gguf  # noqa: E402


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of the tiny model."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def tokenizer(tiny_path: Path) -> Tokenizer:
    """The tiny model's."""
    with GGUFFile.open(tiny_path) as file:
        return load_from_gguf(file.metadata)


MakeEngine = Callable[..., tuple[Engine, FakeExecutable]]


@pytest.fixture
def make_engine(tokenizer: Tokenizer) -> Iterator[MakeEngine]:
    """Makes engines over a `FakeExecutable`; closes them at the end."""
    made: list[tuple[Engine, FakeExecutable]] = []

    def make(
        *,
        max_rows: int = 64,
        max_outputs: int = 8,
        num_kv_blocks: int = 32,
        context: int = 512,
        **options: Any,
    ) -> tuple[Engine, FakeExecutable]:
        executable = FakeExecutable(
            tokenizer.vocab_size,
            CompileOptions(max_rows=max_rows, max_outputs=max_outputs, num_kv_blocks=num_kv_blocks),
        )
        engine = Engine(
            executable,
            tokenizer,
            EngineOptions(context=context, **options),
            vocab_size=tokenizer.vocab_size,
        )
        made.append((engine, executable))
        return engine, executable

    yield make
    for engine, executable in made:
        if executable.gate is not None:
            executable.gate.set()
        engine.close()
