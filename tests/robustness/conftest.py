"""A sound model to damage, and a place for the damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.tiny_model import write_tiny_model
from tests.robustness.model_files import quick_writes, write_full_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama model with a byte-level tokenizer; for reading only."""
    with quick_writes():
        return write_tiny_model(tmp_path_factory.mktemp("sound") / "tiny.gguf")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every optional key, and a SentencePiece tokenizer; for reading only."""
    with quick_writes():
        return write_full_model(tmp_path_factory.mktemp("sound") / "full.gguf")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is done here is remembered for the user."""
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "cache"))
