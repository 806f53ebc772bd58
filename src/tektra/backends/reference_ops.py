"""What each op means, in NumPy: one function an op, float32, one plain way to compute it.

The readable truth of the op set. It does not know where weights come from or when values die.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, Step
from tektra.backends.reference_kv import KvCache
from tektra.backends.step_check import blocks_needed
from tektra.errors import BackendError
from tektra.formats.low_rank import LowRankUpdate
from tektra.graph import (
    Activation,
    AttentionSpec,
    ClampedGate,
    EmbedBy,
    MoeSpec,
    RopeLayout,
    RopeSpec,
    RowSpace,
    Scoring,
    Value,
    ops,
)

__all__ = ["KERNELS", "SCORE_ELEMENTS", "State"]

F32 = NDArray[np.float32]

SCORE_ELEMENTS: Final = 1 << 22
"""Most attention scores that are held at once; longer queries are taken piece by piece."""


@dataclass(slots=True)
class State:
    """What the functions below read and write while one step runs.

    Attributes:
        step: the step.
        weights: float32 weights by name.
        caches: pages of each attention layer.
        frequencies: float64 [dim / 2] radians per position, by rope spec.
        adapters: what each adapter adds, by its id and the name of a matrix.
        values: float32 [rows, width] by value id.
        observe: is told what goes into each matrix: its name, the expert (0 where there are none),
            and the rows.
    """

    step: Step
    weights: Mapping[str, F32]
    caches: Mapping[int, KvCache]
    frequencies: Mapping[RopeSpec, NDArray[np.float64]]
    adapters: Mapping[int, Mapping[str, LowRankUpdate]] = field(default_factory=dict)
    values: dict[int, F32] = field(default_factory=dict)
    observe: Callable[[str, int, F32], None] | None = None


def embed(op: ops.Embed, s: State) -> None:
    step = s.step
    match op.by:
        case EmbedBy.TOKEN:
            numbers = step.token_ids
        case EmbedBy.POSITION:
            numbers = step.positions
        case EmbedBy.SEGMENT:
            numbers = np.zeros_like(step.token_ids) if step.segments is None else step.segments
    s.values[op.out.id] = s.weights[op.table][numbers]


def linear(op: ops.Linear, s: State) -> None:
    x = s.values[op.x.id]
    for out, weight, bias in zip(op.outs, op.weights, op.biases, strict=True):
        if s.observe is not None:
            s.observe(weight, 0, x)
        y = x @ np.atleast_2d(s.weights[weight]).T
        if bias is not None:
            y += s.weights[bias]
        _add_adapters(weight, op.x, x, y, s)
        s.values[out.id] = y


def _add_adapters(weight: str, value: Value, x: F32, y: F32, s: State) -> None:
    """Adds scale * b (a x) to the rows of y, for each adapter that a row's sequence has."""
    step = s.step
    if step.adapters is None or step.adapter_scales is None:
        return
    sequences = np.repeat(np.arange(step.num_sequences), np.diff(step.row_starts))
    if value.rows is RowSpace.OUTPUTS:
        sequences = sequences[step.output_rows]
    for ids, scales in zip(step.adapters.T, step.adapter_scales.T, strict=True):
        for adapter in np.unique(ids[ids >= 0]).tolist():
            update = s.adapters[adapter].get(weight)
            if update is None:
                continue
            rows = np.flatnonzero(ids[sequences] == adapter)
            factor = (update.scale * scales[sequences[rows]]).astype(np.float32)[:, None]
            y[rows] += (x[rows] @ update.a.T * factor) @ update.b.T


def rms_norm(op: ops.RmsNorm, s: State) -> None:
    x = s.values[op.x.id]
    groups = x.reshape(len(x), x.shape[1] // op.group, op.group)
    mean = np.mean(np.square(groups, dtype=np.float64), axis=-1, keepdims=True)
    normed = (groups / np.sqrt(mean + op.eps)).astype(np.float32)
    s.values[op.out.id] = (normed * s.weights[op.weight]).reshape(x.shape)


def layer_norm(op: ops.LayerNorm, s: State) -> None:
    x = s.values[op.x.id].astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    y = (centred / np.sqrt(variance + op.eps)).astype(np.float32) * s.weights[op.weight]
    s.values[op.out.id] = y if op.bias is None else y + s.weights[op.bias]


def rope(op: ops.Rope, s: State) -> None:
    spec = op.spec
    x = s.values[op.x.id]
    heads = x.reshape(len(x), x.shape[1] // spec.head_dim, spec.head_dim)
    angles = s.step.positions[:, None].astype(np.float64) * s.frequencies[spec]
    cos = (np.cos(angles) * spec.magnitude).astype(np.float32)[:, None, :]
    sin = (np.sin(angles) * spec.magnitude).astype(np.float32)[:, None, :]
    first, second = _PAIRS[spec.layout](spec.dim)
    a, b = heads[..., first], heads[..., second]
    out = heads.copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    s.values[op.out.id] = out.reshape(x.shape)


def attention(op: ops.Attention, s: State) -> None:
    spec, cache, step = op.spec, s.caches[op.layer], s.step
    q = s.values[op.q.id].reshape(-1, spec.num_heads, spec.head_dim)
    k = s.values[op.k.id].reshape(-1, spec.num_kv_heads, spec.head_dim)
    v = s.values[op.v.id].reshape(-1, spec.num_kv_heads, spec.value_dim)
    sinks = None if spec.sinks is None else s.weights[spec.sinks]
    of_rows = _blocks_of_rows(step) if spec.block_diagonal else None
    out = np.empty((len(q), spec.num_heads, spec.value_dim), np.float32)
    for sequence in range(step.num_sequences):
        rows = slice(int(step.row_starts[sequence]), int(step.row_starts[sequence + 1]))
        cached = int(step.num_cached[sequence])
        length = cached + rows.stop - rows.start
        table = step.block_tables[sequence, : blocks_needed(length)]
        slots = np.arange(cached, length)
        blocks, offsets = table[slots // KV_BLOCK_SIZE], slots % KV_BLOCK_SIZE
        cache.write(blocks, offsets, k[rows], v[rows])
        # [kv heads, positions, head]: everything is read back from the cache, new rows too.
        keys, values = cache.read(table, length)
        keys, values = keys.transpose(1, 0, 2), values.transpose(1, 0, 2)
        piece = max(1, SCORE_ELEMENTS // (spec.num_heads * length))
        for start in range(rows.start, rows.stop, piece):
            part = slice(start, min(start + piece, rows.stop))
            at = cached + np.arange(part.start, part.stop) - rows.start
            own = None if of_rows is None else of_rows[:, part] - rows.start + cached
            span = spec.span(at, length, own)
            out[part] = _attend(q[part], keys, values, at, span, spec, sinks)
    s.values[op.out.id] = out.reshape(len(q), -1)


def _blocks_of_rows(step: Step) -> NDArray[np.int64]:
    """[2, T]: first row of the block of each row, and the one after its last."""
    if step.block_starts is None:
        raise BackendError("malformed step: the model attends within blocks, and it has none")
    starts = step.block_starts.astype(np.int64)
    return np.repeat([starts[:-1], starts[1:]], np.diff(starts), axis=1)


def _attend(
    q: F32,
    keys: F32,
    values: F32,
    at: NDArray[np.int64],
    span: tuple[NDArray[np.int64], NDArray[np.int64]],
    spec: AttentionSpec,
    sinks: F32 | None,
) -> F32:
    """Softmax attention of rows of one sequence: q [n, heads, head_dim] -> [n, heads, value_dim].

    ``at`` is the slot of each row in its sequence, ``span`` which slots it sees.
    """
    n, num_kv_heads = len(q), spec.num_kv_heads
    length = keys.shape[1]
    # Query heads that share a key head become rows of one product: [kv heads, group * n, head].
    grouped = q.reshape(n, num_kv_heads, -1, spec.head_dim).transpose(1, 2, 0, 3)
    shape = (num_kv_heads, grouped.shape[1], n, length)
    scores = grouped.reshape(num_kv_heads, -1, spec.head_dim) @ keys.transpose(0, 2, 1)
    scores = scores.reshape(shape) * np.float32(spec.score_scale)
    if spec.softcap is not None:
        scores = np.float32(spec.softcap) * np.tanh(scores / np.float32(spec.softcap))
    slots = np.arange(length)
    if spec.alibi is not None:
        slopes = np.array(spec.slopes, np.float32).reshape(num_kv_heads, -1, 1, 1)
        scores -= slopes * np.abs(slots - at[:, None]).astype(np.float32)
    first, last = span
    hidden = (slots < first[:, None]) | (slots >= last[:, None])
    scores[..., hidden] = -np.inf
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = sinks.reshape(num_kv_heads, -1, 1, 1)
        top = np.maximum(top, sink)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total += np.exp(sink - top)
    out = weights.reshape(num_kv_heads, -1, length) @ values
    out = out.reshape(*shape[:3], spec.value_dim) / total
    return np.ascontiguousarray(out.transpose(2, 0, 1, 3)).reshape(n, spec.num_heads, -1)


def moe(op: ops.Moe, s: State) -> None:
    spec, x = op.spec, s.values[op.x.id]
    choice_bias = None if op.choice_bias is None else s.weights[op.choice_bias]
    chosen, share = _route(s.values[op.logits.id], spec, choice_bias)
    (gate, up, down), biases = op.weights, op.biases
    gate_bias, up_bias, down_bias = (None if b is None else s.weights[b] for b in biases)
    answers = np.empty((*chosen.shape, x.shape[1]), np.float32)
    for expert in np.unique(chosen):
        rows, ranks = np.nonzero(chosen == expert)
        g = x[rows] @ s.weights[gate][expert].T
        u = x[rows] @ s.weights[up][expert].T
        g = g if gate_bias is None else g + gate_bias[expert]
        u = u if up_bias is None else u + up_bias[expert]
        inner = _gated(spec.function, g, u)
        y = inner @ s.weights[down][expert].T
        if s.observe is not None:
            for name, seen in ((gate, x[rows]), (up, x[rows]), (down, inner)):
                s.observe(name, int(expert), seen)
        answers[rows, ranks] = y if down_bias is None else y + down_bias[expert]
    out = np.zeros_like(x)
    for rank in range(spec.top_k):
        out += share[:, rank, None] * answers[:, rank]
    s.values[op.out.id] = out


def _route(logits: F32, spec: MoeSpec, choice_bias: F32 | None) -> tuple[NDArray[np.intp], F32]:
    """Experts of each row, best first, and their weights: both [rows, top_k]."""
    if spec.scoring is Scoring.SIGMOID:
        scores = _sigmoid(logits)
    else:
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    # The choice is made by logits where it can be: scores that round to one number would tie.
    ranking = logits if choice_bias is None else scores + choice_bias
    chosen = np.argsort(-ranking, axis=-1, kind="stable")[:, : spec.top_k]
    share = np.take_along_axis(scores, chosen, axis=-1)
    if spec.normalize:
        share = share / share.sum(axis=-1, keepdims=True)
    return chosen, share * np.float32(spec.scale)


def _gated(function: Activation | ClampedGate, gate: F32, up: F32) -> F32:
    if isinstance(function, Activation):
        return _ACTIVATIONS[function](gate) * up
    limit = np.float32(function.limit)
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return gate * _sigmoid(np.float32(function.alpha) * gate) * (up + np.float32(1.0))


def activate(op: ops.Activate, s: State) -> None:
    s.values[op.out.id] = _ACTIVATIONS[op.function](s.values[op.x.id])


def gated(op: ops.Gated, s: State) -> None:
    s.values[op.out.id] = _ACTIVATIONS[op.function](s.values[op.gate.id]) * s.values[op.up.id]


def add(op: ops.Add, s: State) -> None:
    s.values[op.out.id] = s.values[op.a.id] + s.values[op.b.id]


def mul(op: ops.Mul, s: State) -> None:
    s.values[op.out.id] = s.values[op.a.id] * s.values[op.b.id]


def scale(op: ops.Scale, s: State) -> None:
    s.values[op.out.id] = s.values[op.x.id] * np.float32(op.factor)


def softcap(op: ops.Softcap, s: State) -> None:
    cap = np.float32(op.cap)
    s.values[op.out.id] = cap * np.tanh(s.values[op.x.id] / cap)


def select(op: ops.Select, s: State) -> None:
    s.values[op.out.id] = s.values[op.x.id][s.step.output_rows]


def split(op: ops.Split, s: State) -> None:
    first = 0
    for out in op.outs:
        s.values[out.id] = s.values[op.x.id][:, first : first + out.width]
        first += out.width


KERNELS: Final[Mapping[type, Callable[[Any, State], None]]] = MappingProxyType(
    {
        ops.Embed: embed,
        ops.Linear: linear,
        ops.RmsNorm: rms_norm,
        ops.LayerNorm: layer_norm,
        ops.Rope: rope,
        ops.Attention: attention,
        ops.Moe: moe,
        ops.Activate: activate,
        ops.Gated: gated,
        ops.Add: add,
        ops.Mul: mul,
        ops.Scale: scale,
        ops.Softcap: softcap,
        ops.Split: split,
        ops.Select: select,
    }
)
"""The function of each op."""


_PAIRS: Final[Mapping[RopeLayout, Callable[[int], tuple[slice, slice]]]] = MappingProxyType(
    {
        RopeLayout.INTERLEAVED: lambda dim: (slice(0, dim, 2), slice(1, dim, 2)),
        RopeLayout.HALF: lambda dim: (slice(0, dim // 2), slice(dim // 2, dim)),
    }
)


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):  # exp of a large number: the sigmoid is zero then
        return np.float32(1.0) / (np.float32(1.0) + np.exp(-x))


def _gelu(x: F32) -> F32:
    wide = x.astype(np.float64)
    return (0.5 * wide * (1.0 + _erf(wide * math.sqrt(0.5)))).astype(np.float32)


def _gelu_tanh(x: F32) -> F32:
    wide = x.astype(np.float64)
    inner = math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide**3)
    return (0.5 * wide * (1.0 + np.tanh(inner))).astype(np.float32)


_ACTIVATIONS: Final[Mapping[Activation, Callable[[F32], F32]]] = MappingProxyType(
    {
        Activation.SILU: lambda x: x * _sigmoid(x),
        Activation.GELU: _gelu,
        Activation.GELU_TANH: _gelu_tanh,
        Activation.RELU: lambda x: np.maximum(x, np.float32(0.0)),
        Activation.SIGMOID: _sigmoid,
        Activation.TANH: lambda x: np.tanh(x),
    }
)

_ERF_STEPS = 64
_ERF_END = 6


@functools.cache
def _erf_table() -> NDArray[np.float64]:
    """erf at the multiples of 1 / 64 up to 6, where it is 1 to the last bit."""
    return np.array([math.erf(i / _ERF_STEPS) for i in range(_ERF_END * _ERF_STEPS + 1)])


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error function to about 1e-10: a Taylor step from the nearest entry of a table."""
    y = np.minimum(np.abs(x), _ERF_END)
    index = np.rint(np.nan_to_num(y) * _ERF_STEPS).astype(np.intp)
    a = index / _ERF_STEPS
    h = y - a
    slope = 2.0 / math.sqrt(math.pi) * np.exp(-a * a)
    terms = h - a * h**2 + (2 * a**2 - 1) / 3 * h**3 + (3 * a - 2 * a**3) / 6 * h**4
    result: NDArray[np.float64] = np.copysign(_erf_table()[index] + slope * terms, x)
    return result
