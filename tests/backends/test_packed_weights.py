"""Packed matrices that come from elsewhere: the same logits to the bit on each instruction set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import Piece, make_step
from tests.fixtures.tiny_model import write_tiny_model

from tektra.backends.base import CompileOptions, PackedWeights
from tektra.backends.cpu import CpuBackend, native_core
from tektra.errors import BackendError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.packed import PackedMatrix
from tektra.formats.quants import random_blocks
from tektra.models.base import draw

core: Any = native_core()
pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")

ISAS = [isa for isa in core.compiled_isas() if core.runs_here(isa)] if core else []
TYPES = [type_ for type_ in GGMLType if core and core.packed_bytes("scalar", int(type_), 16, 256)]
OPTIONS = CompileOptions(num_threads=2, num_kv_blocks=4)
STEP = make_step([Piece(range(40, 100), [3, 1], 0, [0, 31, 32, 59])])
Arrays = dict[str, NDArray[np.uint8]]


class Copies:
    """`PackedCopies` in memory."""

    def __init__(self, change: Callable[[Arrays], Arrays] = dict) -> None:
        self.layout = ""
        self.packed: Arrays = {}
        self.large_pages = True
        self.num_found = 0
        self._change = change

    def find(self, layout: str, matrices: Sequence[PackedMatrix]) -> PackedWeights | None:
        if layout != self.layout:
            return None
        self.num_found += 1
        return PackedWeights(self._change(self.packed), self.large_pages)

    def offer(
        self,
        layout: str,
        matrices: Sequence[PackedMatrix],
        packed: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        self.layout = layout
        self.packed = {m.name: aligned(packed[m.name]) for m in matrices}
        assert all(self.packed[m.name].size == m.num_bytes for m in matrices)


def aligned(data: NDArray[np.uint8], to: int = 64) -> NDArray[np.uint8]:
    """A read-only copy that begins at a multiple of `to`, and of nothing larger."""
    room = np.empty(data.size + 256, np.uint8)
    begin = -room.ctypes.data % 128 + to
    copy = room[begin : begin + data.size]
    copy[:] = data
    copy.flags.writeable = False
    return copy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("packed") / "tiny.gguf")


def run(
    path: Path, isa: str, copies: Copies | None
) -> tuple[NDArray[np.float32], Mapping[str, int]]:
    with GGUFFile.open(path) as file:
        graph = draw(file.metadata, file.tensors).graph
        backend = CpuBackend(isa=isa)
        planned = backend.plan(graph, file.tensors, OPTIONS).parts["weights"]
        executable = backend.compile(graph, file, OPTIONS, packed=copies)
    logits = executable.run(STEP).copy()
    parts = executable.memory.parts
    executable.close()
    assert parts["weights"] == planned
    return logits, parts


@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bits(tiny: Path, isa: str) -> None:
    expected, memory = run(tiny, isa, None)
    copies = Copies()
    for large_pages in (True, False):  # used in place, and copied
        offered, _ = run(tiny, isa, copies)
        assert np.array_equal(offered.view(np.uint32), expected.view(np.uint32))
        copies.large_pages = large_pages
        found, used = run(tiny, isa, copies)
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
        assert used == memory
    assert copies.num_found == 3
    assert copies.packed


@pytest.mark.parametrize("type_", TYPES)
def test_one_layout_one_packing(type_: GGMLType) -> None:
    """Instruction sets whose layouts have one name pack into the same bytes, for any shape."""
    random = np.random.default_rng(int(type_))
    for rows, width in ((1, 256), (33, 512), (48, 256)):
        data = random_blocks(type_, (rows, width), random, 0.1).reshape(-1).view(np.uint8)
        packed: Arrays = {}
        for isa in ISAS:
            num_bytes = core.packed_bytes(isa, int(type_), rows, width)
            program = core.Program(isa, 2, 8, 8, 1)
            if rows == 33:
                program.reserve_matrices(num_bytes)
            matrix = program.add_matrix(int(type_), rows, width)
            program.pack_matrix(matrix, np.ascontiguousarray(data))
            found = program.packed_matrix(matrix)
            assert found.size == num_bytes
            assert not found.flags.writeable
            first = packed.setdefault(core.packed_layout(isa), found.copy())
            assert np.array_equal(first, found)
            # What lies there outlives the program.
            program.release()
            del program
            assert np.array_equal(first, found)


def test_layouts_have_names() -> None:
    for isa in ISAS:
        name = core.packed_layout(isa)
        assert name == core.packed_layout(isa)
        assert name.startswith("v")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    with pytest.raises(ValueError, match="no kernels"):
        core.packed_layout("none")


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: {name: data[:-64] for name, data in packed.items()},
        lambda packed: {name: aligned(data, 1) for name, data in packed.items()},
    ],
    ids=["too short", "not aligned"],
)
def test_arrays_that_cannot_be_used(tiny: Path, change: Callable[[Arrays], Arrays]) -> None:
    copies = Copies(change)
    run(tiny, "scalar", copies)
    with pytest.raises(BackendError, match="a packed matrix has"):
        run(tiny, "scalar", copies)


def test_misuse() -> None:
    data = np.zeros(core.packed_bytes("scalar", 0, 16, 32), np.uint8)
    program = core.Program("scalar", 1, 8, 8, 1)
    adopted = program.adopt_matrix(0, 16, 32, aligned(data))
    with pytest.raises(ValueError, match="packed already"):
        program.pack_matrix(adopted, np.zeros(16 * 32 * 4, np.uint8))
    with pytest.raises(ValueError, match="cannot be filled"):
        program.copy_matrix(adopted, aligned(data))
    mine = program.add_matrix(0, 16, 32)
    with pytest.raises(ValueError, match="cannot be filled"):
        program.copy_matrix(mine, data[:-1])
    for number in (-1, 2):
        with pytest.raises(ValueError, match="no such matrix"):
            program.copy_matrix(number, data)
        with pytest.raises(ValueError, match="no such matrix"):
            program.packed_matrix(number)
    with pytest.raises(ValueError, match="no kernel"):
        program.adopt_matrix(63, 16, 32, aligned(data))
    with pytest.raises(ValueError, match="does not fit"):
        program.adopt_matrix(0, 2**40, 2**40, aligned(data))


def test_the_owner_is_let_go() -> None:
    data = aligned(np.zeros(core.packed_bytes("scalar", 0, 16, 32), np.uint8))
    before = np.array(data, copy=False)
    program = core.Program("scalar", 1, 8, 8, 1)
    import sys

    count = sys.getrefcount(before)
    program.adopt_matrix(0, 16, 32, before)
    assert sys.getrefcount(before) > count
    program.release()
    assert sys.getrefcount(before) == count
