"""Costs of ops against numbers worked out by hand, and what a machine can do at most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step

from tektra.backends.base import CompileOptions
from tektra.backends.cpu import CpuBackend, native_core
from tektra.backends.cpu_costs import CostModel, OpCost
from tektra.backends.cpu_lowering import lower
from tektra.backends.cpu_peaks import PeakMeter, Peaks, measure_peaks
from tektra.backends.cpu_program import OpCode
from tektra.errors import MemoryLimitError
from tektra.formats.ggml_types import GGMLType
from tektra.graph import AttentionSpec, Graph

WIDTH, KV_WIDTH, VOCABULARY = 64, 32, 48
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def small_weights() -> MemoryWeights:
    rng = np.random.default_rng(0)
    weights = MemoryWeights()
    weights.add_random("embed.weight", (VOCABULARY, WIDTH), GGMLType.Q8_0, rng)
    weights.add_random("q.weight", (WIDTH, WIDTH), GGMLType.Q4_0, rng)
    weights.add_random("k.weight", (KV_WIDTH, WIDTH), GGMLType.Q4_0, rng)
    weights.add_random("v.weight", (KV_WIDTH, WIDTH), GGMLType.F32, rng)
    weights.add("norm.weight", np.ones(WIDTH, np.float32))
    return weights


def small_graph(weights: MemoryWeights, window: int | None = None) -> Graph:
    g = weights.graph()
    x = g.rms_norm(g.embed("embed.weight"), "norm.weight", 1e-5)
    q, k = g.linear(x, "q", "k")
    v = g.linear(x, "v")
    spec = AttentionSpec(HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM, window=window)
    x = g.attention(q, k, v, layer=0, spec=spec)
    g.output("logits", g.linear(g.select_outputs(x), "embed"))
    return g


def costs_of(step_pieces: list[Piece], window: int | None = None) -> dict[str, OpCost]:
    """By kind and label; packed matrices have as many bytes as in the file here, plus one."""
    weights = small_weights()
    graph = small_graph(weights, window)
    types = {name: weights.tensors[name].type for name in graph.weight_names}
    lowered = lower(graph, types, CompileOptions(), lambda t: t is not GGMLType.F32)
    model = CostModel(
        lowered,
        weights.tensors,
        lambda info: info.nbytes + 1,
        lambda info: info.type is not GGMLType.F32,
    )
    costs = model.costs(make_step(step_pieces))
    names = [
        f"{op.code.name} {label}".strip()
        for op, label in zip(lowered.instructions, model.labels, strict=True)
    ]
    assert len(set(names)) == len([n for n in names if not n.startswith("QUANTIZE")]) + 1
    return dict(zip(names, costs, strict=True))


def test_linears_read_their_weights_once_and_multiply_each_row() -> None:
    costs = costs_of([Piece(range(3), [0], 0, [2])])
    both = costs["LINEAR q + k"]
    assert both.weights == (64 * 64 + 32 * 64) // 32 * 18 + 2
    assert both.int8 == 3 * (64 + 32) * 64
    assert both.floats == 0
    # a quantized row: 64 bytes for each of two blocks, and 64 with its scale; two rows of floats
    assert both.activations == 3 * (3 * 64 + 4 * 64 + 4 * 32)
    floats = costs["LINEAR v"]
    assert (floats.int8, floats.floats) == (0, 3 * 32 * 64)
    assert floats.weights == 4 * 32 * 64 + 1


def test_output_rows_are_multiplied_by_both_their_terms() -> None:
    logits = costs_of([Piece(range(3), [0], 0, [1, 2])])["LINEAR embed"]
    assert logits.int8 == 2 * 2 * VOCABULARY * WIDTH
    assert logits.weights == VOCABULARY * WIDTH // 32 * 34 + 1


def test_a_step_without_outputs_reads_no_output_matrix() -> None:
    logits = costs_of([Piece(range(3), [0], 0, [])])["LINEAR embed"]
    assert logits == OpCost()


def test_lookup_reads_its_rows_only() -> None:
    embed = costs_of([Piece(range(3), [0], 0, [])])["EMBED embed"]
    assert embed.weights == 3 * (WIDTH // 32 * 34)
    assert embed.activations == 3 * 4 * WIDTH


def test_attention_of_two_sequences() -> None:
    """Of 5 cached tokens and 2 new ones, and of 3 new ones alone."""
    attention = costs_of([Piece(range(2), [0], 5), Piece(range(3), [1], 0, [2])])["ATTENTION blk.0"]
    seen = (6 + 7) + (1 + 2 + 3)
    assert attention.floats == seen * HEADS * 2 * HEAD_DIM
    token = 2 * KV_HEADS * 2 * HEAD_DIM
    assert attention.cache == token * ((7 + 3) + (2 + 3)), "read once, and what is new written"
    assert attention.activations == 5 * 4 * (64 + 32 + 32 + 64)


def test_attention_in_a_window() -> None:
    """Of 10 cached tokens and 2 new ones, each sees 4."""
    attention = costs_of([Piece(range(2), [0], 10, [1])], window=4)["ATTENTION blk.0"]
    assert attention.floats == (4 + 4) * HEADS * 2 * HEAD_DIM
    assert attention.cache == 2 * KV_HEADS * 2 * HEAD_DIM * (5 + 2)


def test_sums_of_costs() -> None:
    both = OpCost(1, 2, 3, 4, 5) + OpCost(10, 20, 30, 40, 50)
    assert both == OpCost(11, 22, 33, 44, 55)
    assert (both.num_bytes, both.operations) == (66, 99)


PEAKS = Peaks("any", 2, 100.0, 50.0, 10.0, 0.1, 0.2)


@pytest.mark.parametrize(
    ("num_bytes", "int8", "floats", "seconds"),
    [(200, 50, 0, 2.0), (100, 200, 0, 4.0), (0, 0, 30, 3.0), (100, 50, 10, 2.0), (0, 0, 0, 0.0)],
)
def test_the_bound_is_the_slower_of_memory_and_arithmetic(
    num_bytes: int, int8: int, floats: int, seconds: float
) -> None:
    assert PEAKS.seconds(num_bytes, int8, floats) == pytest.approx(seconds)


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
def test_costs_follow_the_ops_of_the_program() -> None:
    weights = small_weights()
    executable = CpuBackend().compile(small_graph(weights), weights, CompileOptions())
    step = make_step([Piece(range(3), [0], 0, [2])])
    executable.set_profiling(True)
    executable.run(step)
    kinds = [kind for kind, _, _ in executable.profile]
    costs = executable.costs.costs(step)
    assert len(kinds) == len(costs) == len(executable.costs.labels)
    assert {kind for kind, cost in zip(kinds, costs, strict=True) if cost.operations} == {
        "linear", "attention"
    }  # fmt: skip
    assert set(kinds) <= {code.name.lower() for code in OpCode}
    assert sum(cost.weights for cost in costs) <= executable.memory.parts["weights"] + 4096
    executable.close()


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
@pytest.mark.parametrize("threads", [1, 2])
def test_peaks(threads: int) -> None:
    core = native_core()
    assert core is not None
    for isa in filter(core.runs_here, core.compiled_isas()):
        meter = PeakMeter(isa, threads, buffer_bytes=1 << 20)
        meter.sample()
        first = meter.best
        meter.sample(2)
        best = meter.best
        assert (best.isa, best.threads) == (isa, threads)
        for name, value in best.to_dict().items():
            if name.endswith("_per_second"):
                assert 1e6 < getattr(first, name) <= value < math.inf
            elif name.endswith("seconds"):
                assert 0.0 < value <= getattr(first, name) < math.inf


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
def test_no_memory_to_measure_with() -> None:
    with pytest.raises(MemoryLimitError, match="measuring"):
        PeakMeter("", 1, buffer_bytes=1 << 60)
    assert measure_peaks("scalar", 1, samples=1).read_bytes_per_second > 0.0
