"""The op set. Every architecture is drawn with these, every backend implements these.

Each op is plain data: its inputs, its outputs, the names of its weights and its numbers. Unless
said otherwise an op works on each row alone, so one graph serves prefill, decode and any mix.
It does not know how an op is computed; `backends/reference.py` is the readable truth of that.
"""

from __future__ import annotations

from dataclasses import dataclass

from tektra.graph.specs import (
    Activation,
    AttentionSpec,
    EmbedBy,
    MoeSpec,
    RopeSpec,
)
from tektra.graph.values import Value

__all__ = [
    "Activate",
    "Add",
    "Attention",
    "Embed",
    "Gated",
    "LayerNorm",
    "Linear",
    "Moe",
    "Mul",
    "Op",
    "RmsNorm",
    "Rope",
    "Scale",
    "Select",
    "Softcap",
    "Split",
]


@dataclass(frozen=True, slots=True)
class Embed:
    """out[t] = table[number of row t]: the start of a text model. table [numbers, width].

    The number is the token of the row, its position, or its segment.
    """

    out: Value
    table: str
    by: EmbedBy = EmbedBy.TOKEN


@dataclass(frozen=True, slots=True)
class Linear:
    """outs[i] = x @ weights[i].T + biases[i], for several weights that read one input.

    weights [out width, in width]; biases [out width] or None.
    """

    x: Value
    outs: tuple[Value, ...]
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """out = x / sqrt(mean(x^2) + eps) * weight, over groups of ``group`` neighbouring elements.

    A group as wide as the row normalizes the row, one as wide as a head each head. weight [group].
    """

    x: Value
    out: Value
    weight: str
    eps: float
    group: int


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. weight, bias [width]."""

    x: Value
    out: Value
    weight: str
    bias: str | None
    eps: float


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotates pairs of elements of every head of x by the position of the row."""

    x: Value
    out: Value
    spec: RopeSpec


@dataclass(frozen=True, slots=True)
class Attention:
    """Writes k and v of each row to the cache of its sequence, then attends over that cache.

    q [heads * head_dim], k [kv heads * head_dim], v [kv heads * value_dim] ->
    out [heads * value_dim]. The only op in which rows of one sequence meet.
    """

    q: Value
    k: Value
    v: Value
    out: Value
    layer: int
    spec: AttentionSpec


@dataclass(frozen=True, slots=True)
class Moe:
    """out[t] = sum over the experts e chosen for row t of weight[t, e] * expert_e(x[t]).

    An expert is a gated feed forward of its own: ``down_e(function(gate_e(x), up_e(x)))``. The
    router's logits [experts] choose, `MoeSpec` says how. Gate and up weights [experts, inner width,
    width], down weights [experts, width, inner width]; biases [experts, rows] or None.
    ``choice_bias`` [experts] is added to scores for the choice alone (DeepSeek-V3's balancing).
    """

    x: Value
    logits: Value
    out: Value
    gate_weight: str
    up_weight: str
    down_weight: str
    gate_bias: str | None
    up_bias: str | None
    down_bias: str | None
    choice_bias: str | None
    spec: MoeSpec

    @property
    def weights(self) -> tuple[str, str, str]:
        return self.gate_weight, self.up_weight, self.down_weight

    @property
    def biases(self) -> tuple[str | None, str | None, str | None]:
        return self.gate_bias, self.up_bias, self.down_bias


@dataclass(frozen=True, slots=True)
class Activate:
    """out = function(x), elementwise."""

    x: Value
    out: Value
    function: Activation


@dataclass(frozen=True, slots=True)
class Gated:
    """out = function(gate) * up, elementwise."""

    gate: Value
    up: Value
    out: Value
    function: Activation


@dataclass(frozen=True, slots=True)
class Add:
    """out = a + b, elementwise."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Mul:
    """out = a * b, elementwise; b may be one element a row, which is then its factor."""

    a: Value
    b: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Scale:
    """out = x * factor."""

    x: Value
    out: Value
    factor: float


@dataclass(frozen=True, slots=True)
class Softcap:
    """out = cap * tanh(x / cap)."""

    x: Value
    out: Value
    cap: float


@dataclass(frozen=True, slots=True)
class Select:
    """out[i] = x[output_rows[i]]: from the rows of the step to those whose result is wanted."""

    x: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Split:
    """x = the outs side by side: the columns of each, for weights that are stored as one."""

    x: Value
    outs: tuple[Value, ...]


Op = (
    Embed
    | Linear
    | RmsNorm
    | LayerNorm
    | Rope
    | Attention
    | Moe
    | Activate
    | Gated
    | Add
    | Mul
    | Scale
    | Softcap
    | Split
    | Select
)
