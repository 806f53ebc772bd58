"""The tracer: a model's `build` calls these methods, and the ops and their shapes are noted.

Shapes are checked while the graph is drawn, against the tensors that the model file really has,
so a file that does not fit its architecture is refused with the tensor's name before anything
is loaded. It knows nothing of devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

from tektra.errors import FormatError
from tektra.graph import ops
from tektra.graph.specs import (
    Activation,
    AttentionSpec,
    EmbedBy,
    MoeSpec,
    RopeSpec,
)
from tektra.graph.values import OutputName, RowSpace, Value

__all__ = ["Graph", "LayerWeights"]

Shape = tuple[int, ...]


class LayerWeights:
    """Names of one layer's tensors: ``w["attn_q"]`` is ``"blk.3.attn_q"``."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __getitem__(self, name: str) -> str:
        return f"{self.prefix}.{name}"


class Graph:
    """A list of ops in the order in which they run, over the tensors of one model.

    Args:
        tensors: shapes of the tensors there are, by name; [rows, width] for matrices.
    """

    def __init__(self, tensors: Mapping[str, Shape]) -> None:
        self._tensors = tensors
        self.ops: list[ops.Op] = []
        self.values: list[Value] = []
        self.outputs: dict[OutputName, Value] = {}
        self.num_attention_layers = 0

    # Tensors

    def layer(self, index: int, prefix: str = "blk") -> LayerWeights:
        """Names of the tensors of one layer, as GGUF has them."""
        return LayerWeights(f"{prefix}.{index}")

    def has(self, name: str) -> bool:
        """Whether the model file has a tensor of this name."""
        return name in self._tensors

    def shape(self, name: str) -> Shape:
        """Shape of a tensor; `FormatError` when the file lacks it."""
        shape = self._tensors.get(name)
        if shape is None:
            raise FormatError(
                f"the model has no tensor {name!r}, which its architecture needs",
                remedy="the file is incomplete or of another architecture: fetch it again",
            )
        return shape

    @property
    def weight_names(self) -> list[str]:
        """Every tensor that an op reads, in the order of first use, each once."""
        names: dict[str, None] = {}
        for op in self.ops:
            for name in _weights_of(op):
                names[name] = None
        return list(names)

    # Ops

    def embed(self, table: str, by: EmbedBy = EmbedBy.TOKEN) -> Value:
        """Rows of a table [numbers, width] for the step's token ids, positions or segments."""
        _, width = self._matrix(table)
        out = self._value(RowSpace.TOKENS, width)
        self.ops.append(ops.Embed(out, table, by))
        return out

    @overload
    def linear(self, x: Value, weight: str, /) -> Value: ...

    @overload
    def linear(self, x: Value, weight: str, /, *more: str) -> tuple[Value, ...]: ...

    def linear(self, x: Value, weight: str, /, *more: str) -> Value | tuple[Value, ...]:
        """x @ W.T + b for each named linear; the ``.bias`` is used where the file has one.

        A name is that of the linear (``blk.0.attn_q``), or of the weight itself when it ends in
        ``.weight``. A vector is a matrix of one row.
        """
        outs: list[Value] = []
        weights: list[str] = []
        biases: list[str | None] = []
        for name in (weight, *more):
            base = name.removesuffix(".weight")
            rows, width = self._matrix(f"{base}.weight", or_vector=True)
            self._expect(width == x.width, f"{base}.weight", (rows, x.width))
            bias = f"{base}.bias" if self.has(f"{base}.bias") else None
            if bias is not None:
                self._vector(bias, rows)
            outs.append(self._value(x.rows, rows))
            weights.append(f"{base}.weight")
            biases.append(bias)
        self.ops.append(ops.Linear(x, tuple(outs), tuple(weights), tuple(biases)))
        return outs[0] if not more else tuple(outs)

    def rms_norm(self, x: Value, weight: str, eps: float, *, group: int | None = None) -> Value:
        """Root mean square norm of each row, or of each ``group`` neighbours (say, a head) in it.

        The weight is as wide as what is normalized.
        """
        group = x.width if group is None else group
        if group <= 0 or x.width % group:
            raise ValueError(f"groups of {group} do not divide {x}")
        self._vector(weight, group)
        out = self._value(x.rows, x.width)
        self.ops.append(ops.RmsNorm(x, out, weight, eps, group))
        return out

    def layer_norm(self, x: Value, name: str, eps: float) -> Value:
        """Layer norm by ``name.weight`` and, where there is one, ``name.bias``."""
        self._vector(f"{name}.weight", x.width)
        bias = f"{name}.bias" if self.has(f"{name}.bias") else None
        if bias is not None:
            self._vector(bias, x.width)
        out = self._value(x.rows, x.width)
        self.ops.append(ops.LayerNorm(x, out, f"{name}.weight", bias, eps))
        return out

    def rope(self, x: Value, spec: RopeSpec) -> Value:
        """Rotary positions on every head of x."""
        if x.rows is not RowSpace.TOKENS:
            raise ValueError("rope needs token rows: only they have positions")
        if x.width % spec.head_dim or spec.dim % 2 or not 0 < spec.dim <= spec.head_dim:
            raise ValueError(f"rope: {spec} does not fit {x}")
        if spec.freq_factors is not None:
            self._vector(spec.freq_factors, spec.dim // 2)
        out = self._value(x.rows, x.width)
        self.ops.append(ops.Rope(x, out, spec))
        return out

    def attention(self, q: Value, k: Value, v: Value, *, layer: int, spec: AttentionSpec) -> Value:
        """Attention of each row over the cache of its sequence, which k and v join first."""
        if spec.num_kv_heads <= 0 or spec.num_heads % spec.num_kv_heads:
            raise ValueError(f"{spec.num_heads} heads cannot share {spec.num_kv_heads} kv heads")
        for name, size in (("window", spec.window), ("chunk", spec.chunk)):
            if size is not None and size <= 0:
                raise ValueError(f"a {name} of {size} positions")
        expected = (
            spec.num_heads * spec.head_dim,
            spec.num_kv_heads * spec.head_dim,
            spec.num_kv_heads * spec.value_dim,
        )
        if (q.width, k.width, v.width) != expected:
            raise FormatError(
                f"layer {layer}: query, key and value are {q.width}, {k.width} and {v.width} wide, "
                f"the head counts and sizes in the metadata ask for {expected}"
            )
        if spec.sinks is not None:
            self._vector(spec.sinks, spec.num_heads)
        self.num_attention_layers = max(self.num_attention_layers, layer + 1)
        out = self._value(q.rows, spec.num_heads * spec.value_dim)
        self.ops.append(ops.Attention(q, k, v, out, layer, spec))
        return out

    def moe(
        self,
        x: Value,
        logits: Value,
        gate: str,
        up: str,
        down: str,
        *,
        spec: MoeSpec,
        choice_bias: str | None = None,
    ) -> Value:
        """What the experts that the router's logits choose make of each row of x.

        ``gate``, ``up`` and ``down`` name the stacked experts as `linear` names a matrix
        (``blk.0.ffn_gate_exps``): each a tensor of three dimensions, experts first; a ``.bias``
        [experts, rows] is used where the file has one.
        """
        if logits.rows is not x.rows or logits.width != spec.num_experts:
            raise FormatError(
                f"{self._origin(logits)} is {logits.width} wide, and there are "
                f"{spec.num_experts} experts",
                remedy="the file's metadata and tensors disagree: fetch it again",
            )
        if not 0 < spec.top_k <= spec.num_experts:
            raise ValueError(f"{spec.top_k} of {spec.num_experts} experts cannot be chosen")
        shape = self.shape(f"{gate}.weight")
        inner = shape[1] if len(shape) == 3 else 0
        gate_bias = self._experts(gate, (spec.num_experts, inner, x.width))
        up_bias = self._experts(up, (spec.num_experts, inner, x.width))
        down_bias = self._experts(down, (spec.num_experts, x.width, inner))
        if choice_bias is not None:
            self._vector(choice_bias, spec.num_experts)
        out = self._value(x.rows, x.width)
        names = f"{gate}.weight", f"{up}.weight", f"{down}.weight"
        biases = gate_bias, up_bias, down_bias
        self.ops.append(ops.Moe(x, logits, out, *names, *biases, choice_bias, spec))
        return out

    def activate(self, x: Value, function: Activation) -> Value:
        """function(x), elementwise."""
        out = self._value(x.rows, x.width)
        self.ops.append(ops.Activate(x, out, function))
        return out

    def gated(self, gate: Value, up: Value, function: Activation) -> Value:
        """function(gate) * up, elementwise."""
        out = self._same(gate, up)
        self.ops.append(ops.Gated(gate, up, out, function))
        return out

    def add(self, a: Value, b: Value) -> Value:
        """a + b, elementwise."""
        out = self._same(a, b)
        self.ops.append(ops.Add(a, b, out))
        return out

    def mul(self, a: Value, b: Value) -> Value:
        """a * b, elementwise; b may be one element wide: a factor of each row."""
        one = b.width == 1 and a.rows is b.rows
        out = self._value(a.rows, a.width) if one else self._same(a, b)
        self.ops.append(ops.Mul(a, b, out))
        return out

    def scale(self, x: Value, factor: float) -> Value:
        """x * factor."""
        out = self._value(x.rows, x.width)
        self.ops.append(ops.Scale(x, out, factor))
        return out

    def softcap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap)."""
        out = self._value(x.rows, x.width)
        self.ops.append(ops.Softcap(x, out, cap))
        return out

    def split(self, x: Value, *widths: int) -> tuple[Value, ...]:
        """x cut into neighbouring columns of these widths, which together are all of them."""
        if sum(widths) != x.width or min(widths) <= 0:
            needed = " + ".join(map(str, widths))
            raise FormatError(
                f"{self._origin(x)} is {x.width} wide, the model needs {needed}",
                remedy="the file's metadata and tensors disagree: fetch it again",
            )
        outs = tuple(self._value(x.rows, width) for width in widths)
        self.ops.append(ops.Split(x, outs))
        return outs

    def select_outputs(self, x: Value) -> Value:
        """The rows whose result is wanted."""
        if x.rows is not RowSpace.TOKENS:
            raise ValueError("only token rows can be selected")
        out = self._value(RowSpace.OUTPUTS, x.width)
        self.ops.append(ops.Select(x, out))
        return out

    def output(self, name: OutputName, x: Value) -> None:
        """Says that x is what a step returns under this name."""
        if x.rows is not RowSpace.OUTPUTS:
            raise ValueError(f"output {name!r} must have output rows, {x} has not")
        self.outputs[name] = x

    # Shape rules

    def _value(self, rows: RowSpace, width: int) -> Value:
        value = Value(len(self.values), rows, width)
        self.values.append(value)
        return value

    def _same(self, a: Value, b: Value) -> Value:
        if a.rows is not b.rows or a.width != b.width:
            raise FormatError(
                f"{self._origin(a)} and {self._origin(b)} cannot be combined: they are "
                f"{a.width} and {b.width} wide",
                remedy="the file's metadata and tensors disagree: fetch it again",
            )
        return self._value(a.rows, a.width)

    def _origin(self, value: Value) -> str:
        """What made a value, for errors: the tensor where it was one."""
        for op in self.ops:
            if isinstance(op, ops.Linear) and value in op.outs:
                return f"the product with {op.weights[op.outs.index(value)]!r}"
            if isinstance(op, ops.Split) and value in op.outs:
                return f"a part of {self._origin(op.x)}"
            if not isinstance(op, ops.Linear | ops.Split) and op.out is value:
                tensors = ", ".join(map(repr, _weights_of(op)))
                return f"the {type(op).__name__.lower()}" + (f" of {tensors}" if tensors else "")
        return str(value)

    def _matrix(self, name: str, *, or_vector: bool = False) -> tuple[int, int]:
        shape = self.shape(name)
        if or_vector and len(shape) == 1:
            return 1, shape[0]
        if len(shape) != 2:
            raise FormatError(f"tensor {name!r} has shape {shape}, a matrix is needed")
        return shape[0], shape[1]

    def _vector(self, name: str, width: int | None = None) -> tuple[int]:
        shape = self.shape(name)
        if len(shape) != 1:
            raise FormatError(f"tensor {name!r} has shape {shape}, a vector is needed")
        self._expect(width is None or shape[0] == width, name, (width or 0,))
        return (shape[0],)

    def _experts(self, name: str, expected: Shape) -> str | None:
        """Checks stacked matrices and their biases; the name of the latter where there are any."""
        self._expect(self.shape(f"{name}.weight") == expected, f"{name}.weight", expected)
        bias = f"{name}.bias"
        if not self.has(bias):
            return None
        self._expect(self.shape(bias) == expected[:2], bias, expected[:2])
        return bias

    def _expect(self, condition: bool, name: str, expected: Shape) -> None:
        if not condition:
            raise self._misshapen(name, expected)

    def _misshapen(self, name: str, expected: Shape) -> FormatError:
        return FormatError(
            f"tensor {name!r} has shape {self.shape(name)}, the model needs {expected}",
            remedy="the file's metadata and tensors disagree: fetch it again",
        )


def _weights_of(op: ops.Op) -> list[str]:
    """Names of the tensors that one op reads."""
    match op:
        case ops.Embed(table=table):
            return [table]
        case ops.Linear(weights=weights, biases=biases):
            return [*weights, *(b for b in biases if b is not None)]
        case ops.Moe(weights=weights, biases=biases, choice_bias=choice):
            return [*weights, *(b for b in (*biases, choice) if b is not None)]
        case ops.RmsNorm(weight=weight):
            return [weight]
        case ops.LayerNorm(weight=weight, bias=bias):
            return [weight] if bias is None else [weight, bias]
        case ops.Rope(spec=spec):
            return [] if spec.freq_factors is None else [spec.freq_factors]
        case ops.Attention(spec=attention):
            return [] if attention.sinks is None else [attention.sinks]
        case _:
            return []
