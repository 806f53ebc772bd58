"""Lowering for the native core: what is fused, and that no two living buffers share memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tektra.backends.base import CompileOptions
from tektra.backends.cpu_lowering import Lowered, lower
from tektra.backends.cpu_program import QUANTIZING, OpCode
from tektra.formats.ggml_types import GGMLType
from tektra.graph import Activation, AttentionSpec, Graph, RopeLayout, RopeSpec, Value

WIDTH, HIDDEN, VOCAB = 64, 96, 50
OPTIONS = CompileOptions(num_threads=1, max_rows=16, max_outputs=4, num_kv_blocks=2)
SHAPES = {
    "embd.weight": (VOCAB, WIDTH),
    "norm.weight": (WIDTH,),
    "q.weight": (WIDTH, WIDTH),
    "k.weight": (WIDTH, WIDTH),
    "v.weight": (WIDTH, WIDTH),
    "o.weight": (WIDTH, WIDTH),
    "gate.weight": (HIDDEN, WIDTH),
    "up.weight": (HIDDEN, WIDTH),
    "down.weight": (WIDTH, HIDDEN),
}
SPEC = AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=32)
ROPE = RopeSpec(head_dim=32, dim=32, base=10000.0, layout=RopeLayout.HALF)


def draw(layers: int, select_at: int) -> Graph:
    """A small transformer; the output rows are selected in layer ``select_at``."""
    g = Graph(SHAPES)
    x = g.embed("embd.weight")
    for i in range(layers):
        h = g.rms_norm(x, "norm.weight", 1e-5)
        q, k, v = g.linear(h, "q", "k", "v")
        a = g.attention(g.rope(q, ROPE), g.rope(k, ROPE), v, layer=i, spec=SPEC)
        x = g.add(x, g.linear(a, "o"))
        if i == select_at:
            x = g.select_outputs(x)
        if i <= select_at:
            h = g.rms_norm(x, "norm.weight", 1e-5)
            gate, up = g.linear(h, "gate", "up")
            x = g.add(g.linear(g.gated(gate, up, Activation.SILU), "down"), x)
        if i == select_at:
            break
    g.output("hidden", x)
    g.output("logits", g.linear(x, "embd"))
    return g


def lowered(graph: Graph, quantized: bool = True) -> Lowered:
    types = dict.fromkeys(SHAPES, GGMLType.Q4_0 if quantized else GGMLType.F32)
    return lower(graph, types, OPTIONS, lambda t: t is GGMLType.Q4_0)


def codes(program: Lowered) -> list[str]:
    return [op.code.name for op in program.instructions]


def test_a_layer_is_this_list() -> None:
    assert codes(lowered(draw(1, 0))) == [
        "EMBED", "RMS_NORM_QUANTIZE", "LINEAR", "ROPE_TABLE", "ROPE", "ROPE", "ATTENTION",
        "QUANTIZE", "LINEAR", "SELECT", "RMS_NORM_QUANTIZE", "LINEAR", "GATED_QUANTIZE", "LINEAR",
        "QUANTIZE", "LINEAR",
    ]  # fmt: skip


def test_float_weights_read_floats() -> None:
    assert not any("QUANTIZE" in code for code in codes(lowered(draw(1, 0), quantized=False)))


def test_a_norm_with_another_reader_stays_floats() -> None:
    g = Graph(SHAPES)
    h = g.rms_norm(g.embed("embd.weight"), "norm.weight", 1e-5)
    g.output("hidden", g.select_outputs(g.add(g.linear(h, "o"), h)))
    assert codes(lowered(g)) == ["EMBED", "RMS_NORM", "QUANTIZE", "LINEAR", "SELECT"]


def test_residual_additions_are_made_by_the_linear() -> None:
    program = lowered(draw(3, 2))
    assert "ADD" not in codes(program)
    added = [op for op in program.instructions if op.code is OpCode.LINEAR and op.ints[0] == 1]
    assert len(added) == 6
    for op in added:  # in place: the sum takes the summand's memory
        assert program.buffers[op.inputs[1]].offset == program.buffers[op.outputs[0]].offset


def test_output_rows_have_two_terms_and_token_rows_one() -> None:
    program = lowered(draw(2, 1))
    for op in program.instructions:
        if op.code in QUANTIZING:
            outputs = program.buffers[op.outputs[0]].outputs
            assert op.ints[0] == (2 if outputs else 1)
    assert [op.ints[1] for op in program.instructions if op.code is OpCode.LINEAR][-3:] == [2, 2, 2]


def test_an_addition_is_left_alone_where_it_must_be() -> None:
    """A linear whose result is read elsewhere too, or whose summand comes later, adds nothing."""
    g = Graph(SHAPES)
    x = g.embed("embd.weight")
    y = g.linear(x, "o")
    z = g.activate(y, Activation.SILU)  # a second reader, and a summand that is made later
    g.output("hidden", g.select_outputs(g.add(y, z)))
    assert codes(lowered(g)).count("ADD") == 1


def test_a_value_added_to_itself() -> None:
    g = Graph(SHAPES)
    y = g.linear(g.embed("embd.weight"), "o")
    g.output("hidden", g.select_outputs(g.add(y, y)))
    assert codes(lowered(g)).count("ADD") == 1


@given(layers=st.integers(1, 4), data=st.data(), quantized=st.booleans())
def test_living_buffers_never_overlap(layers: int, data: st.DataObject, quantized: bool) -> None:
    graph = draw(layers, data.draw(st.integers(0, layers - 1)))
    check_places(lowered(graph, quantized))


@given(st.data())
def test_living_buffers_never_overlap_in_any_graph(data: st.DataObject) -> None:
    """Ops on values drawn at random, many of which live long."""
    g = Graph(SHAPES)
    values: list[Value] = [g.embed("embd.weight")]
    for _ in range(data.draw(st.integers(1, 25))):
        a, b = (data.draw(st.sampled_from(values)) for _ in range(2))
        kind = data.draw(st.sampled_from(["add", "mul", "scale", "norm", "linear", "gated"]))
        match kind:
            case "add":
                values.append(g.add(a, b))
            case "mul":
                values.append(g.mul(a, b))
            case "scale":
                values.append(g.scale(a, 2.0))
            case "norm":
                values.append(g.rms_norm(a, "norm.weight", 1e-5))
            case "linear":
                values.append(g.linear(a, "o"))
            case _:
                values.append(g.gated(a, b, Activation.RELU))
    g.output("hidden", g.select_outputs(data.draw(st.sampled_from(values))))
    check_places(lowered(g, data.draw(st.booleans())))


def check_places(program: Lowered) -> None:
    """Replays the program: what an instruction reads must be what was written there last."""
    sizes = [
        b.stride * (OPTIONS.max_outputs if b.outputs else OPTIONS.max_rows) for b in program.buffers
    ]
    holds: dict[int, range] = {}  # buffer -> its bytes, while nothing has been written over them
    for op in program.instructions:
        for number in op.inputs:
            assert number in holds, f"{op.code.name} reads a buffer that was written over"
        for number in op.outputs:
            start = program.buffers[number].offset
            assert start % 64 == 0
            assert start + sizes[number] <= program.arena_bytes
            mine = range(start, start + sizes[number])
            in_place = None if op.in_place is None else op.inputs[op.in_place]
            for other, theirs in list(holds.items()):
                if mine.start < theirs.stop and theirs.start < mine.stop:
                    read_here = other in op.inputs and other != in_place
                    assert not read_here, f"{op.code.name} writes over what it still reads"
                    assert other not in op.outputs
                    del holds[other]
            holds[number] = mine
    for buffer, _ in program.outputs.values():
        assert buffer in holds, "an output was written over"


def test_the_check_sees_an_overlap() -> None:
    program = lowered(draw(2, 1))
    for buffer in program.buffers:
        buffer.offset = 0
    with pytest.raises(AssertionError):
        check_places(program)
