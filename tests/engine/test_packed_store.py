"""The folder of packed copies: what is found, what is thrown out, and what goes wrong in it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.waiting import wait_for

from tektra.engine.packed_store import PackedStore
from tektra.engine.verify import VerifiedFiles
from tektra.errors import CancelledError, IntegrityError
from tektra.formats.packed import PackedMatrix

ROOT = Path(__file__).parents[2]
SOURCES = [f"{digit}" * 64 for digit in "0123456789abcdef"]
LAYOUT = "v1-rows8-test"
MATRICES = (PackedMatrix("a", "Q8_0", 8, 32, 1 << 20), PackedMatrix("b", "F32", 1, 16, 64 << 10))
SIZE = sum(matrix.num_bytes for matrix in MATRICES)


def contents(seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return {m.name: random.integers(0, 256, m.num_bytes, np.uint8) for m in MATRICES}


def nothing() -> None:
    pass


def new_store(
    folder: Path, limit: int = 1 << 30, free: Callable[[Path], tuple[int, int]] | None = None
) -> PackedStore:
    known = VerifiedFiles(folder.parent / "verified.json")
    return PackedStore(folder, limit, known, free or (lambda _: (1 << 40, 1 << 40)))


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    return new_store(tmp_path / "cache" / "packed")


def put(store: PackedStore, source: str = SOURCES[0], seed: int = 0) -> Path:
    return store.write(source, LAYOUT, MATRICES, contents(seed), nothing)


def found(store: PackedStore, source: str = SOURCES[0]) -> bool:
    return store.open(source, LAYOUT, MATRICES) is not None


def unfinished(store: PackedStore) -> list[Path]:
    return [path for path in store.folder.iterdir() if path.name.startswith(".")]


def test_a_copy_is_found_again(store: PackedStore) -> None:
    assert not found(store)
    assert not store.has(SOURCES[0], LAYOUT)
    path = put(store)
    copy = store.open(SOURCES[0], LAYOUT, MATRICES)
    assert copy is not None
    assert all(np.array_equal(copy.matrices[n], data) for n, data in contents().items())
    assert store.has(SOURCES[0], LAYOUT)
    assert not found(store, SOURCES[1])
    assert store.open(SOURCES[0], "v2-rows8-test", MATRICES) is None
    assert store.open(SOURCES[0], LAYOUT, MATRICES[:1]) is None
    assert path.stat().st_mode & 0o077 == 0
    assert not unfinished(store)


def test_another_process_finds_it_too(store: PackedStore) -> None:
    put(store)
    assert found(new_store(store.folder))


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def flip_and_hide(path: Path) -> None:
    """With the time of the last change put back, as somebody might who means it."""
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """By a file with the same bytes, of which nobody knows that they are the right ones."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 64)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, flip_and_hide, replace, shorten, empty])
def test_what_is_not_as_it_was_written_is_not_used(
    store: PackedStore, damage: Callable[[Path], None]
) -> None:
    path = put(store)
    damage(path)
    assert not found(store)
    assert not store.has(SOURCES[0], LAYOUT)
    put(store)
    assert found(store)


def test_a_copy_that_nobody_knows_is_not_used(store: PackedStore) -> None:
    """As after a kill between the last two steps, or where the list of known files was lost."""
    put(store)
    (store.folder.parent / "verified.json").unlink()
    assert not found(store)
    put(store)
    assert found(store)


def test_deleted_while_it_is_mapped(store: PackedStore) -> None:
    path = put(store)
    copy = store.open(SOURCES[0], LAYOUT, MATRICES)
    assert copy is not None
    store.remove(path)
    assert not found(store)
    put(store, seed=1)
    assert all(np.array_equal(copy.matrices[n], data) for n, data in contents().items())


def test_the_folder_is_deleted(store: PackedStore) -> None:
    path = put(store)
    for file in store.folder.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert store.copies() == []
    assert not found(store)
    put(store)
    assert found(store)


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    store = new_store(tmp_path / "packed", limit=int(3.5 * SIZE))
    for source in SOURCES[:3]:
        put(store, source)
        time.sleep(0.02)  # the times of files may be that coarse
    assert found(store, SOURCES[0])  # which makes it the latest
    time.sleep(0.02)
    put(store, SOURCES[3])
    assert [copy.source for copy in store.copies()] == [SOURCES[2], SOURCES[0], SOURCES[3]]
    put(store, SOURCES[4])
    assert [copy.source for copy in store.copies()] == [SOURCES[0], SOURCES[3], SOURCES[4]]
    assert all(copy.layout == LAYOUT and copy.num_bytes > SIZE for copy in store.copies())
    # Nothing is left beside them.
    assert len(list(store.folder.iterdir())) == 6


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    store = new_store(tmp_path / "packed", limit=int(1.5 * SIZE))
    put(store)
    foreign = [store.folder / name for name in ("notes.txt", "model.safetensors", "x" * 64)]
    for path in foreign:
        path.write_text("mine")
    put(store, SOURCES[1])
    assert [copy.source for copy in store.copies()] == [SOURCES[1]]
    assert all(path.exists() for path in foreign)


def test_larger_than_the_limit(tmp_path: Path) -> None:
    store = new_store(tmp_path / "packed", limit=SIZE)
    with pytest.raises(OSError, match="all may take") as caught:
        put(store)
    assert caught.value.errno == errno.ENOSPC
    assert store.copies() == []


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    """A reserve stays free; older copies go only where that helps."""
    gib = 1 << 30
    roomy = new_store(tmp_path / "packed")
    put(roomy)
    full = new_store(tmp_path / "packed", free=lambda _: (gib - SIZE, 4 * gib))
    with pytest.raises(OSError, match="left alone"):
        put(full, SOURCES[1])
    assert found(roomy)
    tight = new_store(tmp_path / "packed", free=lambda _: (gib + 4096, 4 * gib))
    put(tight, SOURCES[1])
    assert [copy.source for copy in tight.copies()] == [SOURCES[1]]
    large = new_store(tmp_path / "packed", free=lambda _: (4 * gib, 100 * gib))
    with pytest.raises(OSError, match="left alone"):
        put(large, SOURCES[2])


PROGRAM = """
import sys
from pathlib import Path
from tests.engine.test_packed_store import *
import resource, signal, time
store = new_store(Path(sys.argv[1]))
wait, limit = int(sys.argv[2]), int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
calls = 0
def pause():
    global calls
    calls += 1
    if calls == wait:
        print("there", flush=True)
        time.sleep(60)
try:
    store.write(SOURCES[0], LAYOUT, MATRICES, contents(), pause)
except OSError as error:
    print(error)
print("done", flush=True)
"""


def start(store: PackedStore, *, wait: int = 0, limit: int = 0) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store.folder), str(wait), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("wait", [1, 2])
def test_killed_while_it_writes(store: PackedStore, wait: int) -> None:
    """Before anything is written, and before it is read back."""
    with start(store, wait=wait) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        left = unfinished(store)
        assert len(left) == 1
        assert not found(store)
        # Another one does not take away what is being written, however old it looks.
        os.utime(left[0], (1, 1))
        put(store, SOURCES[1])
        assert unfinished(store) == left
        os.kill(writer.pid, signal.SIGKILL)
    assert not found(store)
    put(store)
    assert found(store)
    assert unfinished(store) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_file_that_cannot_grow(store: PackedStore) -> None:
    writer = start(store, limit=SIZE // 2)
    output, _ = writer.communicate(timeout=60)
    assert "too large" in output
    assert store.copies() == []
    assert unfinished(store) == []


def test_writers_side_by_side(store: PackedStore) -> None:
    writers = [start(store) for _ in range(3)]
    threads = [threading.Thread(target=put, args=(store,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.communicate(timeout=60)[0] for writer in writers] == ["done\n"] * 3
    assert len(store.copies()) == 1
    assert unfinished(store) == []
    # Of all that was remembered of it the last word may be of another one: then once more.
    if not found(store):
        put(store)
    assert found(store)


def test_cancelled(store: PackedStore) -> None:
    def pause() -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        store.write(SOURCES[0], LAYOUT, MATRICES, contents(), pause)
    assert list(store.folder.iterdir()) == []


def test_bytes_that_come_back_otherwise(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tektra.engine.packed_store.digest_of_stream", lambda *_: "0" * 64)
    with pytest.raises(IntegrityError, match="not as it was written"):
        put(store)
    assert list(store.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = new_store(tmp_path / "file" / "packed")
    assert not found(store)
    assert store.copies() == []
    with pytest.raises(OSError, match="file"):
        put(store)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_that_may_not_be_written(store: PackedStore) -> None:
    put(store)
    store.folder.chmod(0o500)
    try:
        assert found(store)
        with pytest.raises(OSError, match="denied"):
            put(store, SOURCES[1])
    finally:
        store.folder.chmod(0o700)


@pytest.mark.parametrize("source", ["", "../" * 21 + "a", "A" * 64, "0" * 63, "0" * 64 + "/"])
def test_names_that_are_none(store: PackedStore, source: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        store.path_of(source, LAYOUT)
    with pytest.raises(ValueError, match="not the name"):
        store.path_of(SOURCES[0], f"{LAYOUT}/../x")


def test_it_is_seen_once_it_is_written(store: PackedStore) -> None:
    """The name comes last: whoever looks meanwhile finds nothing."""
    seen: list[bool] = []
    store.write(SOURCES[0], LAYOUT, MATRICES, contents(), lambda: seen.append(found(store)))
    assert seen
    assert not any(seen)
    wait_for(lambda: found(store))
