"""Mixtures of experts in the native core: memory, packed copies, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step
from tests.backends.test_packed_weights import ISAS, Copies, aligned, core

from tektra.backends.base import CompileOptions
from tektra.backends.cpu import CpuBackend, CpuExecutable
from tektra.backends.cpu_program import OpCode
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import random_blocks
from tektra.graph import Graph, MoeSpec

pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")

EXPERTS, USED, WIDTH, INNER, ROWS = 5, 2, 64, 96, 12
OPTIONS = CompileOptions(num_threads=2, max_rows=ROWS, max_outputs=ROWS, num_kv_blocks=1)
STEP = make_step([Piece(range(ROWS), [0], 0, range(ROWS))])


def model(type_: GGMLType) -> tuple[Graph, MemoryWeights]:
    rng = np.random.default_rng(3)
    weights = MemoryWeights().add("x", rng.standard_normal((ROWS, WIDTH)).astype(np.float32))
    weights.add("router.weight", rng.standard_normal((EXPERTS, WIDTH)).astype(np.float32))
    for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
        weights.add_random(f"{name}.weight", (EXPERTS, *shape), type_, rng)
    graph = weights.graph()
    x = graph.embed("x")
    spec = MoeSpec(EXPERTS, USED)
    out = graph.moe(x, graph.linear(x, "router"), "gate", "up", "down", spec=spec)
    graph.output("hidden", graph.select_outputs(out))
    return graph, weights


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", [GGMLType.F32, GGMLType.Q4_0, GGMLType.MXFP4])
def test_a_copy_is_used_and_memory_is_as_planned(type_: GGMLType, isa: str) -> None:
    graph, weights = model(type_)
    backend, copies = CpuBackend(isa=isa), Copies()
    planned = backend.plan(graph, weights.tensors, OPTIONS)
    outputs = []
    for large_pages in (True, True, False):  # packed, used in place, copied
        copies.large_pages = large_pages
        executable = backend.compile(graph, weights, OPTIONS, packed=copies)
        assert dict(executable.memory.parts) == dict(planned.parts)
        outputs.append(executable.run(STEP, "hidden").copy())
        executable.close()
    assert copies.num_found == 2
    for out in outputs[1:]:
        assert np.array_equal(out.view(np.uint32), outputs[0].view(np.uint32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [16, 19])  # whole groups, and a rest in each expert
def test_experts_are_packed_as_each_alone(isa: str, rows: int) -> None:
    type_ = GGMLType.Q4_0
    rng = np.random.default_rng(rows)
    data = random_blocks(type_, (3, rows, WIDTH), rng, 0.1).reshape(3, -1).view(np.uint8)
    program = core.Program(isa, 2, 8, 8, 1)
    stacked = program.add_matrix(int(type_), rows, WIDTH, 3)
    program.pack_matrix(stacked, np.ascontiguousarray(data).reshape(-1))
    found = program.packed_matrix(stacked)
    assert found.size == core.packed_bytes(isa, int(type_), rows, WIDTH, 3)
    # of one expert, without what kernels may look at past the end
    many = [core.packed_bytes(isa, int(type_), rows, WIDTH, count) for count in (64, 128)]
    size, begin = (many[1] - many[0]) // 64, 0
    for expert in data:
        alone = program.add_matrix(int(type_), rows, WIDTH)
        program.pack_matrix(alone, np.ascontiguousarray(expert))
        np.testing.assert_array_equal(
            found[begin : begin + size], program.packed_matrix(alone)[:size]
        )
        begin += size
    adopted = program.adopt_matrix(int(type_), rows, WIDTH, aligned(found), 3)
    assert np.array_equal(program.packed_matrix(adopted), found)


def op(**changes: object) -> None:
    """Adds a mixture of experts to a program, with something wrong."""
    program = core.Program("scalar", 1, ROWS, ROWS, 1)
    matrices = {
        "gate": program.add_matrix(0, INNER, WIDTH, EXPERTS),
        "down": program.add_matrix(0, WIDTH, INNER, EXPERTS),
        "fewer": program.add_matrix(0, INNER, WIDTH, EXPERTS - 1),
        "one": program.add_matrix(0, INNER, WIDTH),
    }
    short = program.add_vector(np.zeros(EXPERTS + 1, np.float32))
    row = 64 + USED * (384 + max(2 * 384 + 256, 256))
    stride = {"x": 256, "logits": 64, "out": 256, "work": row}
    width = {"x": WIDTH, "logits": EXPERTS, "out": WIDTH, "work": INNER}
    ints = {"top_k": USED, "sigmoid": 0, "normalize": 1, "function": 0, "terms": 1}
    weights = {"gate": matrices["gate"], "up": matrices["gate"], "down": matrices["down"]}
    biases = dict.fromkeys(("gate_bias", "up_bias", "down_bias", "choice_bias"), -1)
    buffers, at = {}, 0
    for name in stride:
        bytes_ = changes.get(f"{name}_stride", stride[name])
        columns = changes.get(f"{name}_width", width[name])
        buffers[name] = program.add_buffer(at, bytes_, columns, False)
        at += stride[name] * ROWS
    for name, value in changes.items():
        if name in ints:
            ints[name] = value  # type: ignore[assignment]
        elif name in weights:
            weights[name] = matrices.get(str(value), 99)
        elif name in biases:
            biases[name] = short
    program.add_op(
        int(OpCode.MOE),
        [buffers["x"], buffers["x"], buffers["logits"]],
        [buffers["out"], buffers["work"]],
        [*weights.values(), *biases.values()],
        list(ints.values()),
        [1.0, 1.0, 0.0],
    )


def test_an_op_that_is_right() -> None:
    op()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up": "fewer"}, "differ in shape"),
        ({"down": "gate"}, "differ in shape"),
        ({"gate": "one"}, "differ in shape"),
        ({"gate": "absent"}, "no such matrix"),
        ({"top_k": 0}, "more experts than there are"),
        ({"top_k": EXPERTS + 1}, "more experts than there are"),
        ({"function": 7}, "unknown function"),
        ({"function": -1}, "unknown function"),
        ({"terms": 3}, "one or two terms"),
        ({"gate_bias": 1}, "wrong biases"),
        ({"choice_bias": 1}, "wrong biases"),
        ({"x_width": 32}, "input and matrix"),
        ({"x_stride": 192}, "input and matrix"),
        ({"logits_width": EXPERTS - 1}, "a logit for each expert"),
        ({"out_width": 32}, "output and matrix"),
        ({"work_stride": 1024}, "work buffer"),
        ({"work_width": INNER - 1}, "work buffer"),
    ],
)
def test_ops_that_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        op(**changes)


def test_no_linear_reads_stacked_matrices() -> None:
    program = core.Program("scalar", 1, 8, 8, 1)
    matrix = program.add_matrix(0, 32, 32, 2)
    x, y = (program.add_buffer(at, 128, 32, False) for at in (0, 1024))
    with pytest.raises(ValueError, match="no such matrix"):
        program.add_op(2, [x], [y], [matrix, -1], [0, 1], [])


def test_rows_that_are_not_finite_choose_somebody() -> None:
    """Whatever the logits are, nothing outside the experts is read."""
    graph, weights = model(GGMLType.F32)
    for value in (np.nan, np.inf, -np.inf):
        x = np.full((ROWS, WIDTH), value, np.float32)
        x[0, 0] = 1.0
        weights.add("x", x)
        executable: CpuExecutable = CpuBackend().compile(graph, weights, OPTIONS)
        assert executable.run(STEP, "hidden").shape == (ROWS, WIDTH)
        executable.close()
