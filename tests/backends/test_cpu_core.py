"""The native core against misuse and want: threads that come second, memory that ends, closing.

Steps that are malformed are in test_step_check.py; the core by itself is in tests/native.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.steps import Piece, make_step
from tests.fixtures.tiny_model import write_tiny_model

from tektra.backends.base import CompileOptions, Executable
from tektra.backends.cpu import CpuBackend, CpuExecutable, native_core
from tektra.errors import BackendError
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")

NUM_BLOCKS = 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("core") / "tiny.gguf")


def compile_tiny(path: Path, options: CompileOptions) -> CpuExecutable:
    with GGUFFile.open(path) as file:
        return CpuBackend().compile(draw(file.metadata, file.tensors).graph, file, options)


@pytest.fixture
def executable(tiny: Path) -> Iterator[CpuExecutable]:
    made = compile_tiny(tiny, CompileOptions(num_threads=2, num_kv_blocks=NUM_BLOCKS))
    yield made
    made.close()


STEP = make_step([Piece(range(40, 100), [3, 1], 0, [59])])


def test_blocks_that_repeat_are_no_longer_context(executable: Executable) -> None:
    """A table may name a block twice, but not to go beyond the cache."""
    blocks = [0] * 20000 + [1]
    with pytest.raises(BackendError, match="longer than the cache"):
        executable.run(make_step([Piece([5], blocks, 32 * 20000, [0])]))


def test_second_thread_is_refused(executable: Executable) -> None:
    expected = executable.run(STEP).copy()
    outcomes: Counter[str] = Counter()

    def call() -> None:
        for _ in range(200):
            try:
                executable.run(STEP)
                outcomes["done"] += 1
            except BackendError as error:
                outcomes[str(error)] += 1

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.total() == 600
    assert set(outcomes) <= {"done", "the program is in use on another thread"}
    np.testing.assert_array_equal(executable.run(STEP), expected)


def test_results_outlive_closing(executable: CpuExecutable) -> None:
    rows = executable.run(STEP)
    expected, program = rows.copy(), executable._program
    buffer, num_ops = executable._outputs["logits"]
    executable.close()
    np.testing.assert_array_equal(rows, expected)
    # what is large does not stay for as long as the rows do
    assert (program.weight_bytes, program.cache_bytes) == (0, 0)
    with pytest.raises(BackendError, match="closed"):
        executable.run(STEP)
    with pytest.raises(ValueError, match="cannot run"):
        program.run(*(getattr(STEP, name) for name in STEP.__slots__[:6]), num_ops, buffer)


def test_profile(executable: CpuExecutable) -> None:
    assert executable.profile == []
    executable.set_profiling(True)
    executable.run(STEP)
    profile = executable.profile
    kinds = Counter(kind for kind, _, _ in profile)
    assert kinds["attention"] == 2  # layers
    assert kinds["embed"] == 1
    assert profile[0][0] == "embed"
    assert {calls for _, _, calls in profile} == {1}
    assert all(seconds >= 0.0 for _, seconds, _ in profile)
    executable.set_profiling(False)
    executable.run(STEP)
    assert [calls for name, _, calls in executable.profile if name == "embed"] == [1]


@pytest.mark.parametrize("name", ["num_threads", "max_rows", "num_kv_blocks"])
def test_sizes_beyond_measure(tiny: Path, name: str) -> None:
    sizes: dict[str, Any] = {"num_threads": 1, "max_rows": 64, "num_kv_blocks": 8, name: 1 << 33}
    with pytest.raises(BackendError, match=r"threads|32 bits"):
        compile_tiny(tiny, CompileOptions(**sizes))


# Loads, answers and closes under ever larger limits on address space, one process for each.
WORKER = """
import json, resource, sys
import tektra, numpy, jinja2, tektra.tokenizer
from tektra.errors import TektraError
from tektra import LLM
extra, threads, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))
try:
    with LLM(path, device="cpu", threads=threads, context=256) as llm:
        llm.generate("hello world", max_tokens=4, ignore_eos=True)
    print(json.dumps("done"))
except (TektraError, MemoryError) as error:
    print(json.dumps(type(error).__name__))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_wherever_memory_ends(tiny: Path) -> None:
    """Never a crash, never a hang: a typed error, or Python's own MemoryError."""
    outcomes: dict[tuple[int, int], str] = {}
    for threads in (1, 64):
        for mib in (0, 1, 2, 4, 9, 20, 50, 150, 4096):
            ended = subprocess.run(
                [sys.executable, "-c", WORKER, str(mib * 2**20), str(threads), str(tiny)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            case = f"{threads} threads, {mib} MiB: {ended.returncode} {ended.stderr[-2000:]}"
            assert ended.returncode == 0, case
            outcomes[threads, mib] = json.loads(ended.stdout)
    assert outcomes[1, 4096] == outcomes[64, 4096] == "done"
    assert outcomes[1, 0] != "done"
    assert outcomes[64, 150] == "BackendError"  # there is no room for the stacks of 64 threads
