"""Loading: digests are checked and remembered, sizes are chosen, resources are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tektra.backends.base import CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.engine import loader, resources
from tektra.engine.loader import LoadOptions, load
from tektra.engine.sizing import Sizes, choose_sizes, context_limit
from tektra.engine.verify import VerifiedFiles, verify_file
from tektra.errors import (
    CancelledError,
    IntegrityError,
    InvalidParameterError,
    MemoryLimitError,
)
from tektra.formats.gguf import GGUFFile
from tektra.graph import RopeScaling
from tektra.graph.ops import Rope
from tektra.hub import ResolvedModel
from tektra.models.base import DrawnModel, draw
from tektra.progress import CancelToken, ProgressEvent, ignore_progress

# Digests


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(5_000_000))
    return path


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(path: Path, sha256: str, cache: Path, cancel: CancelToken | None = None) -> list[int]:
    """Verifies and returns the progress: one event where the file was not read."""
    events: list[ProgressEvent] = []
    verify_file(
        path,
        sha256,
        known=VerifiedFiles(cache),
        progress=events.append,
        cancel=cancel or CancelToken(),
    )
    assert {event.stage for event in events} == {"verify"}
    assert events[-1].fraction == 1.0
    return [event.done for event in events]


def test_a_file_is_read_once(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "verified.json"
    assert check(file, digest_of(file), cache) == [4194304, 5_000_000]
    assert check(file, digest_of(file).upper(), cache) == [5_000_000]
    assert [p.name for p in cache.parent.iterdir()] == ["verified.json"]


def _same_size_same_mtime(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x" * path.stat().st_size)
    os.replace(other, path)


@pytest.mark.parametrize("change", [_same_size_same_mtime, _replaced])
def test_a_changed_file_is_read_again(
    file: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    cache, sha256 = tmp_path / "verified.json", digest_of(file)
    check(file, sha256, cache)
    change(file)
    with pytest.raises(IntegrityError, match=f"{digest_of(file)}, but {sha256} was promised"):
        check(file, sha256, cache)


def test_another_digest_is_checked(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "verified.json"
    check(file, digest_of(file), cache)
    with pytest.raises(IntegrityError):
        check(file, "0" * 64, cache)


@given(garbage=st.one_of(st.binary(max_size=200), st.just(b"[" * 200_000)))
def test_a_broken_cache_heals(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    folder = tmp_path_factory.mktemp("heal")
    path, cache = folder / "file", folder / "verified.json"
    path.write_bytes(b"weights")
    cache.write_bytes(garbage)
    sha256 = digest_of(path)
    assert not VerifiedFiles(cache).knows(path, sha256)
    check(path, sha256, cache)
    assert VerifiedFiles(cache).knows(path, sha256)
    assert json.loads(cache.read_bytes())["version"] == 1


@pytest.mark.parametrize("content", ['{"version": 1, "files": []}', '{"version": 2}', "[]", "1"])
def test_a_cache_of_another_shape_heals(file: Path, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "verified.json"
    cache.write_text(content)
    check(file, digest_of(file), cache)
    assert VerifiedFiles(cache).knows(file, digest_of(file))


def test_where_nothing_can_be_written_it_verifies_all_the_same(file: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file where a folder should be")
    check(file, digest_of(file), tmp_path / "plain" / "verified.json")


def test_verifying_can_be_cancelled(file: Path, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        check(file, digest_of(file), tmp_path / "verified.json", token)


@pytest.fixture
def pinned(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Makes the loader find the tiny model with a pinned digest."""
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "cache"))

    def pin(sha256: str) -> None:
        resolved = ResolvedModel(tiny_path, sha256, "tiny", "test")
        monkeypatch.setattr(loader, "resolve", lambda reference: resolved)

    return pin


def load_tiny(progress: Callable[[ProgressEvent], None] = ignore_progress) -> None:
    options = LoadOptions(device=ReferenceBackend(), threads=1)
    load("tiny", options, progress=progress, cancel=CancelToken()).executable.close()


def test_load_verifies_a_pinned_digest(pinned: Callable[[str], None], tiny_path: Path) -> None:
    pinned(digest_of(tiny_path))
    events: list[ProgressEvent] = []
    load_tiny(events.append)
    verified = [event for event in events if event.stage == "verify"]
    assert verified[-1].done == verified[-1].total == tiny_path.stat().st_size
    assert {event.stage for event in events} == {"map", "verify", "pack", "warm up"}


def test_load_refuses_a_wrong_digest(pinned: Callable[[str], None]) -> None:
    pinned("a" * 64)
    closed = []

    class Watched(ReferenceBackend):
        def compile(self, *arguments: Any, **options: Any) -> Any:
            executable = super().compile(*arguments, **options)
            real = executable.close

            def close() -> None:
                closed.append(True)
                real()

            executable.close = close  # type: ignore[method-assign]
            return executable

    for backend in (ReferenceBackend(), Watched()):
        with pytest.raises(IntegrityError, match=r"a{64} was promised"):
            load(
                "tiny",
                LoadOptions(device=backend),
                progress=ignore_progress,
                cancel=CancelToken(),
            )
    assert closed in ([], [True])


# Sizes


@pytest.fixture(scope="module")
def drawn(tiny_path: Path) -> DrawnModel:
    with GGUFFile.open(tiny_path) as file:
        return draw(file.metadata, file.tensors)


def sizes(
    drawn: DrawnModel, memory: int | None, context: int | None = None, batch: int = 4
) -> Sizes:
    config = replace(drawn.config, context_length=1 << 16)
    return choose_sizes(
        DrawnModel(config, drawn.graph),
        ReferenceBackend(),
        {},
        context=context,
        max_batch=batch,
        options=CompileOptions(max_rows=64),
        memory=memory,
    )


def needed(drawn: DrawnModel, chosen: Sizes) -> int:
    return ReferenceBackend().plan(drawn.graph, {}, chosen.options).total


def test_plenty_of_memory(drawn: DrawnModel) -> None:
    chosen = sizes(drawn, 1 << 40)
    assert chosen.context == 4096
    assert chosen.options.num_kv_blocks == 4 * 128
    assert sizes(drawn, 1 << 40, context=1 << 16).context == 1 << 16


def test_cache_of_a_large_batch(drawn: DrawnModel) -> None:
    """It does not grow with the batch without bound: not all sequences are as long as can be."""
    for batch, contexts in ((1, 1), (3, 3), (8, 4), (100, 4)):
        assert sizes(drawn, 1 << 40, batch=batch).options.num_kv_blocks == contexts * 128


def test_outputs_follow_the_batch(drawn: DrawnModel) -> None:
    assert sizes(drawn, 1 << 40, batch=4).options.max_outputs == 32
    assert sizes(drawn, 1 << 40, batch=50).options.max_outputs == 50


def memory_for(drawn: DrawnModel, num_blocks: int) -> int:
    """Bytes that the model takes with so many cache blocks."""
    options = replace(sizes(drawn, 1 << 40).options, num_kv_blocks=num_blocks)
    return ReferenceBackend().plan(drawn.graph, {}, options).total


@pytest.mark.parametrize(
    ("blocks", "context", "chosen_blocks"),
    [
        (16, 512, 16),  # just the smallest
        (31, 512, 16),
        (32, 1024, 32),
        (128, 4096, 128),
        (800, 4096, 200),  # a quarter of what the weights leave, for further sequences
        (5000, 4096, 512),  # no more than the batch can use
    ],
)
def test_a_default_context_fits_into_memory(
    drawn: DrawnModel, blocks: int, context: int, chosen_blocks: int
) -> None:
    memory = memory_for(drawn, blocks)
    chosen = sizes(drawn, memory)
    assert (chosen.context, chosen.options.num_kv_blocks) == (context, chosen_blocks)
    assert needed(drawn, chosen) <= memory


def test_what_does_not_fit_is_refused(drawn: DrawnModel) -> None:
    with pytest.raises(MemoryLimitError, match=r"needs \d+ MiB with a context of 512 tokens"):
        sizes(drawn, memory_for(drawn, 15))
    with pytest.raises(MemoryLimitError, match="context of 65536 tokens"):
        sizes(drawn, memory_for(drawn, 2047), context=1 << 16)
    assert sizes(drawn, memory_for(drawn, 2048), context=1 << 16).context == 1 << 16


def test_a_context_beyond_the_model_is_refused(drawn: DrawnModel) -> None:
    with pytest.raises(InvalidParameterError, match="made for at most 65536"):
        sizes(drawn, 1 << 40, context=65537)


def test_scaling_of_positions_lengthens_the_limit(drawn: DrawnModel) -> None:
    assert context_limit(drawn) == 256
    graph = drawn.graph
    before = graph.ops
    try:
        graph.ops = [
            replace(
                op,
                spec=replace(op.spec, scaling=RopeScaling.YARN, factor=4.0, original_context=200),
            )
            if isinstance(op, Rope)
            else op
            for op in before
        ]
        assert context_limit(drawn) == 800
    finally:
        graph.ops = before


# Resources


def test_resources_of_this_machine() -> None:
    assert 1 <= resources.usable_cores() <= (os.cpu_count() or 1)
    memory = resources.available_memory()
    assert memory is not None
    assert 1 << 20 < memory < 1 << 50


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu__max": "150000 100000\n"}, 1.5),
        ({"cpu__max": "max 100000\n"}, None),
        ({"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}, 4.0),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, None),
        ({"cpu__max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_of_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: float | None
) -> None:
    folder = group(tmp_path / "g", **files)
    monkeypatch.setattr(resources, "_groups", lambda controller: iter([folder]))
    assert resources.cpu_quota() == quota
    monkeypatch.setattr(resources, "num_physical_cores", lambda: 3)
    assert resources.usable_cores() == {1.5: 1, 4.0: 3, None: 3}[quota]


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        group(tmp_path / f"cpu{cpu}" / "topology", thread_siblings_list=siblings + "\n")
    for allowed, cores in (({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1}, 1), ({1, 9}, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, a=allowed: a, raising=False)
        assert resources.num_physical_cores(tmp_path) == cores


def test_memory_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = group(
        tmp_path / "g",
        memory__max="64000000",
        memory__current="50000000",
        memory__stat="anon 1\nfile 20000000\n",
    )
    monkeypatch.setattr(resources, "_groups", lambda controller: iter([folder]))
    assert resources.available_memory() == 34_000_000
    (folder / "memory.max").write_text("max")
    assert resources.available_memory() != 34_000_000
