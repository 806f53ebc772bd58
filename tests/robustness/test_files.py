"""A3, A9: paths that are no model files, and files that change while a model loads from them."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.waiting import wait_for
from tests.robustness.model_files import quick_writes

from tektra import LLM
from tektra.errors import (
    FormatError,
    MemoryLimitError,
    ModelNotFoundError,
    ModelReferenceError,
    TektraError,
)
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.progress import ProgressCallback, ProgressEvent, ignore_progress

posix = pytest.mark.skipif(os.name != "posix", reason="these are POSIX's kinds of files")


def load(path: Path, progress: ProgressCallback = ignore_progress) -> LLM:
    return LLM(path, device="cpu", threads=1, context=32, max_batch=1, progress=progress)


# What a path may lead to


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def bound_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_RDONLY)
        try:  # by a short name: that of a socket may have a hundred bytes
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.with_name("other.gguf"))
    path.with_name("other.gguf").symlink_to(path)
    return path


def link_to(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def tiny_of(path: Path) -> Path:
    return path.with_name("tiny.gguf")


KINDS: dict[str, tuple[Callable[[Path], Path], type[TektraError], str]] = {
    "fifo": (fifo, ModelReferenceError, "neither a file nor a directory"),
    "link to a device": (link_to("/dev/zero"), ModelReferenceError, "neither a file nor"),
    "device": (lambda path: Path("/dev/null"), ModelReferenceError, "neither a file nor"),
    "terminal": (lambda path: Path("/dev/tty"), TektraError, "/dev/tty"),
    "loop of links": (loop, ModelNotFoundError, "cannot be read"),
    "dangling link": (link_to("nowhere"), ModelNotFoundError, "there is no file"),
    "empty folder": (folder, ModelNotFoundError, "holds no model"),
    "long name": (lambda path: path.with_name("x" * 5000), ModelNotFoundError, "cannot be read"),
    "below a file": (lambda path: tiny_of(path) / "x.gguf", ModelNotFoundError, "no file"),
    "null character": (lambda path: path.with_name("a\0b.gguf"), TektraError, "a"),
    "file of the system": (lambda path: Path("/proc/self/maps"), FormatError, "empty"),
    "memory of the process": (lambda path: Path("/proc/self/mem"), FormatError, "mem"),
}
if sys.platform == "linux":
    KINDS["socket"] = bound_socket, ModelReferenceError, "neither a file nor a directory"


@posix
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(10)
def test_paths_that_are_no_model_files(kind: str, tiny: Path, tmp_path: Path) -> None:
    make, error, message = KINDS[kind]
    shutil.copyfile(tiny, tmp_path / "tiny.gguf")
    if kind.endswith(("of the system", "of the process")) and sys.platform != "linux":
        pytest.skip("there is no /proc")
    path = make(tmp_path / "model.gguf")
    with pytest.raises(error, match=message):
        load(path)
    # The reader of the format does not rely on others to have looked.
    with pytest.raises(TektraError):
        GGUFFile.open(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    for content in (b"", b"G", b"GGU", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(5000)):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"model\.gguf"):
            load(path)


def test_a_file_that_may_not_be_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    shutil.copyfile(tiny, path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything
        real = os.open

        def refuse(name: str, *arguments: int) -> int:
            if str(name) == str(path):
                raise PermissionError(13, "Permission denied", name)
            return real(name, *arguments)

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FormatError, match="cannot be read: Permission denied"):
        load(path)


# Models in several files


@pytest.fixture
def splits(tiny: Path, tmp_path: Path) -> list[Path]:
    with GGUFFile.open(tiny) as file, quick_writes():
        tensors: list[TensorSource] = [
            (info.name, info.shape, info.type, file.tensor_bytes(info.name))
            for info in file.tensors.values()
        ]
        target = tmp_path / "model.gguf"
        paths = write_gguf(target, file.typed_metadata, tensors, split_max_bytes=100_000)
    assert len(paths) > 3
    return list(paths)


def test_a_split_model_loads_from_any_part(splits: list[Path]) -> None:
    for path in (splits[0], splits[-1]):
        with load(path) as llm:
            assert llm.generate("hello", max_tokens=2).completion_tokens


@posix
@pytest.mark.parametrize("kind", ["fifo", "loop of links", "dangling link", "empty folder"])
@pytest.mark.timeout(10)
def test_a_part_that_is_no_file(kind: str, splits: list[Path]) -> None:
    splits[1].unlink()
    KINDS[kind][0](splits[1])
    with pytest.raises((FormatError, ModelNotFoundError), match=splits[1].name):
        load(splits[0])


def test_parts_that_do_not_belong_together(splits: list[Path], tmp_path: Path) -> None:
    shutil.copyfile(splits[2], splits[1])
    with pytest.raises(FormatError, match=splits[1].name):
        load(splits[0])


@pytest.mark.parametrize("part", [0, 1, -1])
def test_a_part_that_is_cut(part: int, splits: list[Path]) -> None:
    with splits[part].open("r+b") as file:
        file.truncate(splits[part].stat().st_size - 64)
    with pytest.raises(FormatError, match=splits[part].name):
        load(splits[0])


# Files that change meanwhile


class Meanwhile:
    """Does something to a file when a stage of loading, or a part of it, is done."""

    def __init__(self, change: Callable[[], object], stage: str, done: float) -> None:
        self.change, self.stage, self.done = change, stage, done
        self.was_done = False

    def __call__(self, event: ProgressEvent) -> None:
        now = event.stage == self.stage and (event.fraction or 0.0) >= self.done
        if now and not self.was_done:
            self.was_done = True
            self.change()


WHEN = [("map", 0.0), ("map", 1.0), ("pack", 0.1), ("pack", 0.5), ("pack", 0.9), ("pack", 1.0)]


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    shutil.copyfile(tiny, path)
    return path


@posix
@pytest.mark.parametrize("left", [0, 5000, 4096 * 20])
@pytest.mark.parametrize(("stage", "done"), WHEN)
def test_a_file_that_shrinks(model: Path, stage: str, done: float, left: int) -> None:
    """A9: reading the lost part of a mapped file would end the process."""
    meanwhile = Meanwhile(lambda: os.truncate(model, left), stage, done)
    with pytest.raises(FormatError, match=r"model\.gguf"):
        load(model, meanwhile)
    assert meanwhile.was_done


@posix
@pytest.mark.parametrize(("stage", "done"), WHEN[1:])
def test_a_file_that_is_written_to(model: Path, stage: str, done: float) -> None:
    """A9: a model of two halves that never belonged together is not served."""

    def write() -> None:
        with model.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(100))
        status = model.stat()  # whatever the resolution of the clock of the file system
        os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    meanwhile = Meanwhile(write, stage, done)
    with pytest.raises(FormatError, match="was written to while it was being read"):
        load(model, meanwhile)
    assert meanwhile.was_done


@posix
@pytest.mark.parametrize(("stage", "done"), WHEN[1:])
@pytest.mark.parametrize("how", ["deleted", "replaced", "grown"])
def test_a_file_that_goes(model: Path, tmp_path: Path, stage: str, done: float, how: str) -> None:
    """What is mapped stays: a download that puts a new version in its place harms nobody."""

    def change() -> None:
        if how == "deleted":
            model.unlink()
        elif how == "replaced":
            (tmp_path / "new.gguf").write_bytes(b"another")
            os.replace(tmp_path / "new.gguf", model)
        else:
            with model.open("ab") as file:
                file.write(bytes(5000))

    meanwhile = Meanwhile(change, stage, done)
    if how == "grown":
        with pytest.raises(FormatError, match="was written to"):
            load(model, meanwhile)
        return
    with load(model, meanwhile) as llm:
        assert llm.generate("hello", max_tokens=2).completion_tokens
    assert meanwhile.was_done


@posix
def test_a_file_that_goes_before_it_is_opened(model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.gguf"):
        load(model, Meanwhile(model.unlink, "map", 0.0))


@posix
def test_a_file_that_changes_once_it_is_loaded(model: Path) -> None:
    """Nothing is read from it any more: weights are packed into memory of their own."""
    with load(model) as llm:
        before = llm.generate("hello", max_tokens=4, temperature=0.0).token_ids
        os.truncate(model, 0)
        assert llm.generate("hello", max_tokens=4, temperature=0.0).token_ids == before
        assert llm.chat([{"role": "user", "content": "hi"}], max_tokens=2).text is not None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("background", [False, True])
def test_a_load_that_fails_keeps_nothing(model: Path, background: bool) -> None:
    """Neither the error nor whoever keeps it holds the mapped file."""

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(model))

    data = bytearray(model.read_bytes())
    at = data.index(b"blk.1.ffn_down")
    data[at] ^= 1
    model.write_bytes(data)
    kept = []
    for _ in range(3):
        if background:
            llm = LLM(model, device="cpu", threads=1, wait=False)
            with pytest.raises(TektraError) as caught:
                llm.wait_ready(10)
            kept.append((llm, caught.value))
            assert mappings() == 0
        else:
            with pytest.raises(TektraError):
                load(model)
    assert mappings() == 0


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    ("where", "raising"),
    [
        ("tektra.formats.mapped_file.mmap.mmap", no_room),
        ("tektra.formats.gguf.parse_header", no_memory),
        ("tektra.engine.model_files.load_from_gguf", no_memory),
        ("tektra.backends.cpu._load_weights", no_memory),
    ],
)
def test_no_memory_to_load(
    where: str, raising: Callable[..., None], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(model, device="cpu", threads=1):
        pass  # whatever is imported on the way, while there is memory
    monkeypatch.setattr(where, raising)
    with pytest.raises(MemoryLimitError) as caught:
        load(model)
    assert caught.value.remedy


def test_a_dropped_background_load_is_let_go(model: Path) -> None:
    """Not closed, but dropped: nothing keeps what it loaded until the program ends."""
    llm = LLM(model, device="cpu", threads=1, wait=False)
    llm.wait_ready(10)
    runtime = weakref.ref(llm._runtime)
    del llm

    def gone() -> bool:
        gc.collect()
        return runtime() is None

    wait_for(gone)
