"""From a graph to the flat list of instructions that the native core walks.

Neighbouring ops are fused where it pays, activations are quantized once for all linears that read
them, and every intermediate gets its place in one arena. It knows shapes and weight types, but
neither the weights' bytes nor the core: the result is plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tektra.backends.base import CompileOptions
from tektra.backends.cpu_fusion import quantized_only, residual_additions
from tektra.backends.cpu_program import (
    Buffer,
    Instruction,
    OpCode,
    moe_row_bytes,
    place,
    quantized_bytes,
    round_up,
)
from tektra.formats.ggml_types import GGMLType
from tektra.graph import (
    Activation,
    ClampedGate,
    EmbedBy,
    Graph,
    OutputName,
    RopeLayout,
    RopeSpec,
    RowSpace,
    Scoring,
    Value,
    ops,
)

__all__ = ["Lowered", "lower"]


# As ``tektra::ActivationKind``.
_ACTIVATIONS = {
    Activation.SILU: 0,
    Activation.GELU: 1,
    Activation.GELU_TANH: 2,
    Activation.RELU: 3,
    Activation.SIGMOID: 4,
    Activation.TANH: 5,
}


# As ``tektra::EmbedBy``.
_EMBED_BY = {EmbedBy.TOKEN: 0, EmbedBy.POSITION: 1, EmbedBy.SEGMENT: 2}


@dataclass(frozen=True, slots=True)
class Lowered:
    """A lowered graph.

    Attributes:
        instructions: what runs, in order.
        buffers: the places, by number.
        arena_bytes: size of the arena.
        outputs: for each output of the graph its buffer and how many instructions it needs.
        matrices: names of the tensors that are packed.
        vectors: names of the tensors that are kept as float32.
    """

    instructions: list[Instruction]
    buffers: list[Buffer]
    arena_bytes: int
    outputs: dict[OutputName, tuple[int, int]]
    matrices: list[str]
    vectors: list[str]


def lower(
    graph: Graph,
    types: Mapping[str, GGMLType],
    options: CompileOptions,
    reads_quantized: Callable[[GGMLType], bool],
) -> Lowered:
    """Lowers a graph whose tensors have these types.

    ``reads_quantized`` says whether the core multiplies matrices of a type with int8 activations.
    """
    lowering = _Lowering(graph, types, reads_quantized)
    for op in graph.ops:
        lowering.add(op)
    outputs: dict[OutputName, tuple[int, int]] = {}
    for name, value in graph.outputs.items():
        buffer = lowering.buffer_of[value.id]
        ready = max(i for i, op in enumerate(lowering.instructions) if buffer in op.outputs)
        outputs[name] = (buffer, ready + 1)
    arena = place(
        lowering.instructions, lowering.buffers, {b for b, _ in outputs.values()}, options
    )
    return Lowered(
        lowering.instructions,
        lowering.buffers,
        arena,
        outputs,
        list(lowering.matrices),
        list(lowering.vectors),
    )


class _Lowering:
    """State while a graph is lowered: the instructions so far, and what became of each value."""

    def __init__(
        self,
        graph: Graph,
        types: Mapping[str, GGMLType],
        reads_quantized: Callable[[GGMLType], bool],
    ) -> None:
        self.types = types
        self.shape = graph.shape
        self.reads_quantized = reads_quantized
        self.instructions: list[Instruction] = []
        self.buffers: list[Buffer] = []
        self.buffer_of: dict[int, int] = {}  # value id -> buffer
        self.quantized: dict[int, int] = {}  # value id -> buffer with its quantized rows
        self.rope_tables: dict[RopeSpec, int] = {}
        self.matrices: dict[str, None] = {}
        self.vectors: dict[str, None] = {}
        self.quantized_only = quantized_only(graph, types, reads_quantized)
        # ops whose output is quantized as it is made, when its first reader asks for it
        self.waiting: dict[int, ops.RmsNorm | ops.Gated] = {}
        self.additions = residual_additions(graph)
        self.fused = {add.out.id for add in self.additions.values()}

    def add(self, op: ops.Op) -> None:
        _LOWER[type(op)](self, op)

    # Buffers and weights

    def floats(self, value: Value) -> int:
        """A new buffer for a value."""
        buffer = self._buffer(value, round_up(4 * value.width))
        self.buffer_of[value.id] = buffer
        return buffer

    def quantize(self, value: Value) -> int:
        """The buffer with the quantized rows of a value; made on first use."""
        if value.id not in self.quantized:
            terms = _terms(value)
            buffer = self._buffer(value, terms * quantized_bytes(value.width))
            match self.waiting.get(value.id):
                case ops.RmsNorm() as norm:
                    self.emit(
                        OpCode.RMS_NORM_QUANTIZE,
                        [self.buffer_of[norm.x.id]],
                        [buffer],
                        weights=[self.vector(norm.weight)],
                        ints=[terms, norm.group],
                        floats=[norm.eps],
                    )
                case ops.Gated() as gated:
                    self.emit(
                        OpCode.GATED_QUANTIZE,
                        [self.buffer_of[gated.gate.id], self.buffer_of[gated.up.id]],
                        [buffer],
                        ints=[terms, _ACTIVATIONS[gated.function]],
                    )
                case None:
                    source = self.buffer_of[value.id]
                    self.emit(OpCode.QUANTIZE, [source], [buffer], ints=[terms])
            self.quantized[value.id] = buffer
        return self.quantized[value.id]

    def _buffer(self, value: Value, stride: int) -> int:
        self.buffers.append(Buffer(value.width, stride, value.rows is RowSpace.OUTPUTS))
        return len(self.buffers) - 1

    def matrix(self, name: str) -> str:
        self.matrices[name] = None
        return name

    def vector(self, name: str | None) -> str | None:
        if name is not None:
            self.vectors[name] = None
        return name

    def emit(self, code: OpCode, inputs: list[int], outputs: list[int], **rest: Any) -> None:
        self.instructions.append(Instruction(code, inputs, outputs, **rest))

    # Ops

    def embed(self, op: ops.Embed) -> None:
        self.emit(
            OpCode.EMBED,
            [],
            [self.floats(op.out)],
            weights=[self.matrix(op.table)],
            ints=[_EMBED_BY[op.by]],
        )

    def linear(self, op: ops.Linear) -> None:
        addition = self.additions.get(op.outs[0].id)
        by_input: dict[bool, list[int]] = {}
        for i, weight in enumerate(op.weights):
            by_input.setdefault(self.reads_quantized(self.types[weight]), []).append(i)
        for quantized, which in by_input.items():
            source = self.quantize(op.x) if quantized else self.buffer_of[op.x.id]
            inputs, in_place = [source], None
            if addition is not None and len(op.outs) == 1:
                other = addition.b if addition.a.id == op.outs[0].id else addition.a
                inputs.append(self.buffer_of[other.id])
                outputs, in_place = [self.floats(addition.out)], 1
            else:
                outputs = [self.floats(op.outs[i]) for i in which]
            weights: list[str | RopeSpec | None] = [self.matrix(op.weights[i]) for i in which]
            weights += [self.vector(op.biases[i]) for i in which]
            self.emit(
                OpCode.LINEAR,
                inputs,
                outputs,
                weights=weights,
                ints=[len(inputs) - 1, _terms(op.x) if quantized else 1],
                in_place=in_place,
            )

    def rms_norm(self, op: ops.RmsNorm) -> None:
        if op.out.id in self.quantized_only:
            self.waiting[op.out.id] = op
            return
        self.emit(
            OpCode.RMS_NORM,
            [self.buffer_of[op.x.id]],
            [self.floats(op.out)],
            weights=[self.vector(op.weight)],
            ints=[op.group],
            floats=[op.eps],
            in_place=0,
        )

    def layer_norm(self, op: ops.LayerNorm) -> None:
        self.emit(
            OpCode.LAYER_NORM,
            [self.buffer_of[op.x.id]],
            [self.floats(op.out)],
            weights=[self.vector(op.weight), self.vector(op.bias)],
            floats=[op.eps],
            in_place=0,
        )

    def rope(self, op: ops.Rope) -> None:
        if op.spec not in self.rope_tables:
            table = self._buffer(Value(-1, op.x.rows, op.spec.dim), round_up(4 * op.spec.dim))
            self.vector(op.spec.freq_factors)
            self.emit(OpCode.ROPE_TABLE, [], [table], weights=[op.spec])
            self.rope_tables[op.spec] = table
        self.emit(
            OpCode.ROPE,
            [self.buffer_of[op.x.id], self.rope_tables[op.spec]],
            [self.floats(op.out)],
            ints=[op.spec.head_dim, op.spec.dim, int(op.spec.layout is RopeLayout.HALF)],
            in_place=0,
        )

    def attention(self, op: ops.Attention) -> None:
        spec = op.spec
        self.emit(
            OpCode.ATTENTION,
            [self.buffer_of[v.id] for v in (op.q, op.k, op.v)],
            [self.floats(op.out)],
            weights=[self.vector(spec.sinks)],
            ints=[
                op.layer,
                spec.num_heads,
                spec.num_kv_heads,
                spec.head_dim,
                spec.value_dim,
                spec.window or 0,
                int(spec.causal),
                spec.chunk or 0,
                int(spec.block_diagonal),
            ],
            floats=[spec.score_scale, spec.softcap or 0.0, *spec.slopes],
        )

    def moe(self, op: ops.Moe) -> None:
        spec, terms = op.spec, _terms(op.x)
        gate, up, down = (self.reads_quantized(self.types[weight]) for weight in op.weights)
        sources = [self.quantize(op.x) if q else self.buffer_of[op.x.id] for q in (gate, up)]
        inner = self.shape(op.gate_weight)[1]
        stride = moe_row_bytes(
            inner,
            op.out.width,
            spec.top_k,
            terms if down else None,
            [self.buffers[b].stride for b in dict.fromkeys(sources)],
        )
        work = self._buffer(Value(-1, op.x.rows, inner), stride)
        function, clamp = len(_ACTIVATIONS), ClampedGate()
        if isinstance(spec.function, ClampedGate):
            clamp = spec.function
        else:
            function = _ACTIVATIONS[spec.function]
        self.emit(
            OpCode.MOE,
            [*sources, self.buffer_of[op.logits.id]],
            [self.floats(op.out), work],
            weights=[
                *map(self.matrix, op.weights),
                *map(self.vector, (*op.biases, op.choice_bias)),
            ],
            ints=[
                spec.top_k,
                int(spec.scoring is Scoring.SIGMOID),
                int(spec.normalize),
                function,
                terms,
            ],
            floats=[spec.scale, clamp.alpha, clamp.limit],
        )

    def activate(self, op: ops.Activate) -> None:
        self._elementwise(OpCode.ACTIVATE, op.out, op.x, ints=[_ACTIVATIONS[op.function]])

    def gated(self, op: ops.Gated) -> None:
        if op.out.id in self.quantized_only:
            self.waiting[op.out.id] = op
            return
        self._elementwise(OpCode.GATED, op.out, op.gate, op.up, ints=[_ACTIVATIONS[op.function]])

    def sum(self, op: ops.Add) -> None:
        if op.out.id not in self.fused:
            self._elementwise(OpCode.ADD, op.out, op.a, op.b)

    def mul(self, op: ops.Mul) -> None:
        self._elementwise(OpCode.MUL, op.out, op.a, op.b)

    def scale(self, op: ops.Scale) -> None:
        self._elementwise(OpCode.SCALE, op.out, op.x, floats=[op.factor])

    def softcap(self, op: ops.Softcap) -> None:
        self._elementwise(OpCode.SOFTCAP, op.out, op.x, floats=[op.cap])

    def select(self, op: ops.Select) -> None:
        self.emit(OpCode.SELECT, [self.buffer_of[op.x.id]], [self.floats(op.out)])

    def split(self, op: ops.Split) -> None:
        source, first = self.buffer_of[op.x.id], 0
        for out in op.outs:
            self.emit(OpCode.COLUMNS, [source], [self.floats(out)], ints=[first])
            first += out.width

    def _elementwise(self, code: OpCode, out: Value, *inputs: Value, **rest: Any) -> None:
        sources = [self.buffer_of[v.id] for v in inputs]
        self.emit(code, sources, [self.floats(out)], in_place=0, **rest)


_LOWER: dict[type[ops.Op], Callable[[_Lowering, Any], None]] = {
    ops.Embed: _Lowering.embed,
    ops.Linear: _Lowering.linear,
    ops.RmsNorm: _Lowering.rms_norm,
    ops.LayerNorm: _Lowering.layer_norm,
    ops.Rope: _Lowering.rope,
    ops.Attention: _Lowering.attention,
    ops.Moe: _Lowering.moe,
    ops.Activate: _Lowering.activate,
    ops.Gated: _Lowering.gated,
    ops.Add: _Lowering.sum,
    ops.Mul: _Lowering.mul,
    ops.Scale: _Lowering.scale,
    ops.Softcap: _Lowering.softcap,
    ops.Split: _Lowering.split,
    ops.Select: _Lowering.select,
}


def _terms(value: Value) -> int:
    """How many int8 terms the quantized rows of a value have.

    Output rows get two, the second for what the first rounds away: they are few, so it costs
    little, and a third of the divergence from float activations comes from what is done to them
    (docs/log.md).
    """
    return 2 if value.rows is RowSpace.OUTPUTS else 1
