"""The packed copy of a model from load to load: when it is written, used, and not used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.tiny_model import write_tiny_model
from tests.fixtures.waiting import wait_for

from tektra import LLM, ProgressEvent
from tektra.backends.cpu import native_core
from tektra.engine import packed_copy
from tektra.engine.packed_copy import PACKED_FOLDER
from tektra.engine.packed_store import PackedStore
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.formats.mapped_file import MappedFile
from tektra.formats.packed import PackedMatrix

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")

Load = Callable[..., LLM]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which a tiny model too is worth a copy."""
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TEKTRA_PACKED_CACHE", raising=False)
    monkeypatch.setattr(packed_copy, "MIN_BYTES", 0)
    monkeypatch.setattr("tektra.engine.packed_store._RESERVE_BYTES", 0)
    return tmp_path / "cache" / PACKED_FOLDER


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


def load(path: Path, **options: object) -> LLM:
    options = {"device": "cpu", "threads": 2, "context": 64, **options}
    return LLM(path, **options)  # type: ignore[arg-type]


def written(path: Path) -> None:
    with load(path) as llm:
        assert llm.packed_copy in ("pending", "writing", "written")
        assert llm.wait_packed_copy(60) == "written"


def test_written_once_and_then_used(model: Path, cache: Path) -> None:
    with load(model) as llm:
        assert llm.wait_packed_copy(60) == "written"
        expected = llm.score("hello world")
        memory = llm.stats().memory
    assert len([path for path in cache.iterdir() if path.suffix == ".safetensors"]) == 1
    events: list[ProgressEvent] = []
    with load(model, progress=events.append) as llm:
        assert llm.packed_copy == "used"
        assert llm.wait_packed_copy(0) == "used"
        assert np.array_equal(llm.score("hello world"), expected)
        assert llm.stats().memory == memory
    packed = [event for event in events if event.stage == "pack"]
    assert [event.fraction for event in packed] == [1.0]


@pytest.mark.parametrize("large_pages", [True, False])
def test_mapped_or_copied(model: Path, large_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the mapping is in small pages it is copied: the same, to the bit."""
    written(model)
    with load(model, packed_cache=False) as llm:
        assert llm.packed_copy == "off"
        expected = llm.score("hello world")
        memory = llm.stats().memory
    monkeypatch.setattr(MappedFile, "read_ahead", lambda _: large_pages)
    with load(model) as llm:
        assert llm.packed_copy == "used"
        assert np.array_equal(llm.score("hello world"), expected)
        assert llm.stats().memory == memory
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert (".packed.safetensors" in maps.read_text()) == large_pages
    if maps.exists():
        assert ".packed.safetensors" not in maps.read_text()


def test_a_model_that_changes_gets_another_copy(model: Path, cache: Path) -> None:
    written(model)
    write_tiny_model(model, seed=1)
    with load(model) as llm:
        assert llm.wait_packed_copy(60) == "written"
        changed = llm.score("hello world")
    with load(model, packed_cache=False) as llm:
        assert np.array_equal(llm.score("hello world"), changed)
    with load(model) as llm:
        assert llm.packed_copy == "used"
        assert np.array_equal(llm.score("hello world"), changed)
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_a_model_that_moves_keeps_its_copy(model: Path, cache: Path) -> None:
    """It is known by its digest, which is computed once more for the new place."""
    written(model)
    moved = model.rename(model.with_name("moved.gguf"))
    with load(moved) as llm:
        assert llm.wait_packed_copy(60) == "written"
    with load(moved) as llm:
        assert llm.packed_copy == "used"
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_a_model_that_is_written_to_while_it_is_loaded(model: Path, cache: Path) -> None:
    busy = threading.Event()
    busy.set()
    with GGUFFile.open(model) as file:
        from tektra.engine.packed_copy import PackedCopy, default_store
        from tektra.engine.verify import VerifiedFiles

        known = VerifiedFiles(cache.parent / "verified.json")
        copy = PackedCopy(file, None, default_store(1 << 30), known, 0)
        matrices, data = one_matrix()
        copy.offer("v1-test", matrices, data)
        copy.start(busy.is_set)
        write_tiny_model(model, seed=2)
        busy.clear()
        assert copy.wait(60) == "failed"
        assert copy.problem == "the model file was written to"
    assert not list(cache.glob("*.safetensors"))


def one_matrix() -> tuple[list[PackedMatrix], dict[str, NDArray[np.uint8]]]:
    matrix = PackedMatrix("w", "F32", 16, 16, 1024)
    return [matrix], {"w": np.ones(1024, np.uint8)}


def test_writing_waits_while_requests_run(model: Path, cache: Path) -> None:
    from tektra.engine.packed_copy import PackedCopy, default_store
    from tektra.engine.verify import VerifiedFiles

    asked, busy = threading.Event(), threading.Event()
    busy.set()

    def is_busy() -> bool:
        asked.set()
        return busy.is_set()

    with GGUFFile.open(model) as file:
        known = VerifiedFiles(cache.parent / "verified.json")
        copy = PackedCopy(file, None, default_store(1 << 30), known, 0)
        copy.offer("v1-test", *one_matrix())
        copy.start(is_busy)
        assert asked.wait(10)
        assert copy.wait(0.1) == "pending"
        assert not cache.exists()
        busy.clear()
        assert copy.wait(60) == "written"
        copy.close()


def test_closing_ends_the_writing(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind: neither a file, nor the thread."""
    begun = threading.Event()

    def write(*arguments: object) -> None:
        begun.set()
        pause = arguments[-1]
        assert callable(pause)
        while True:
            pause()

    monkeypatch.setattr(PackedStore, "write", write)
    llm = load(model)
    assert begun.wait(10)
    assert llm.packed_copy == "writing"
    llm.close()
    wait_for(lambda: not any(t.name == "tektra-packed-copy" for t in threading.enumerate()))
    assert not list(cache.glob("*"))


def test_a_disk_without_room(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEKTRA_PACKED_CACHE", "1K")
    with load(model) as llm:
        assert llm.wait_packed_copy(60) == "failed"
        assert llm.generate("hello", max_tokens=2).completion_tokens > 0


def test_a_cache_that_cannot_be_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        with load(model) as llm:
            assert llm.wait_packed_copy(60) == "failed"


def test_switched_off(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEKTRA_PACKED_CACHE", "off")
    with load(model) as llm:
        assert llm.packed_copy == llm.wait_packed_copy(60) == "off"
    assert not cache.exists()


def test_a_tiny_model_is_just_packed(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_copy, "MIN_BYTES", 8 << 20)
    with load(model) as llm:
        assert llm.packed_copy == llm.wait_packed_copy(60) == "none"
    assert not cache.exists()


def test_the_reference_has_nothing_to_keep(model: Path, cache: Path) -> None:
    with load(model, device="reference") as llm:
        assert llm.wait_packed_copy(60) == "none"
    assert not cache.exists()


def test_a_model_in_several_files(tmp_path: Path) -> None:
    """Its copy is that of all files together."""
    whole = write_tiny_model(tmp_path / "tiny.gguf")
    folder = tmp_path / "split"
    folder.mkdir()
    with GGUFFile.open(whole) as file:
        tensors: list[TensorSource] = [
            (info.name, info.shape, info.type, file.tensor_bytes(info.name))
            for info in file.tensors.values()
        ]
        paths = write_gguf(
            folder / "model.gguf", file.typed_metadata, tensors, split_max_bytes=100_000
        )
    assert len(paths) > 1
    written(paths[0])
    with load(paths[0]) as llm:
        assert llm.packed_copy == "used"
        scores = llm.score("hello world")
    with load(whole, packed_cache=False) as llm:
        assert np.array_equal(llm.score("hello world"), scores)
