"""Each op written down once more, in float64 and straight from its definition.

Shares nothing with the backends: rotations are complex products, attention loops over rows and
heads and knows no pages.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tektra.graph import Activation, AttentionSpec, MoeSpec, RopeLayout, RopeSpec

__all__ = [
    "activation",
    "attention_row",
    "int8",
    "int8_keys",
    "layer_norm",
    "moe_row",
    "rms_norm",
    "rope",
]

F64 = NDArray[np.float64]


def rms_norm(x: F64, weight: F64, eps: float) -> F64:
    """Over groups as wide as the weight."""
    out = np.empty_like(x)
    group = len(weight)
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], group):
            part = x[row, start : start + group]
            out[row, start : start + group] = (
                part / math.sqrt(float(part @ part) / group + eps) * weight
            )
    return out


def layer_norm(x: F64, weight: F64, bias: F64 | None, eps: float) -> F64:
    out = np.empty_like(x)
    for i, row in enumerate(x):
        out[i] = (row - np.mean(row)) / math.sqrt(float(np.var(row)) + eps) * weight
    return out if bias is None else out + bias


def rope(x: F64, positions: NDArray[np.int32], spec: RopeSpec, factors: F64 | None) -> F64:
    """Pairs as complex numbers, turned by position * frequency."""
    pairs = spec.dim // 2
    frequencies = [spec.base ** (-2 * i / spec.dim) for i in range(pairs)]
    if factors is not None:
        frequencies = [f / float(factor) for f, factor in zip(frequencies, factors, strict=True)]
    if spec.scaling.value == "linear":
        frequencies = [f / spec.factor for f in frequencies]
    magnitude = 1.0
    if spec.scaling.value == "yarn":
        frequencies = [f * _yarn(i, spec) for i, f in enumerate(frequencies)]
        magnitude = 0.1 * math.log(spec.factor) + 1
    magnitude = magnitude if spec.attention_factor is None else spec.attention_factor
    out = x.copy()
    for row, position in enumerate(positions):
        for head in range(0, x.shape[1], spec.head_dim):
            for i, f in enumerate(frequencies):
                if spec.layout is RopeLayout.INTERLEAVED:
                    a, b = head + 2 * i, head + 2 * i + 1
                else:
                    a, b = head + i, head + i + pairs
                angle = int(position) * f
                turned = complex(x[row, a], x[row, b]) * magnitude
                turned *= complex(math.cos(angle), math.sin(angle))
                out[row, a], out[row, b] = turned.real, turned.imag
    return out


def _yarn(pair: int, spec: RopeSpec) -> float:
    """YaRN's factor on the frequency of a pair (https://arxiv.org/abs/2309.00071, eq. 23)."""

    def pair_with(rotations: float) -> float:
        """The pair that turns so many times over the original context."""
        wavelength = spec.original_context / rotations
        return spec.dim / 2 * math.log(wavelength / (2 * math.pi)) / math.log(spec.base)

    low, high = pair_with(spec.beta_fast), pair_with(spec.beta_slow)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(spec.dim - 1, high)
    ramp = min(1.0, max(0.0, (pair - low) / max(0.001, high - low)))
    return ramp / spec.factor + (1 - ramp)


def int8(x: NDArray[np.float32]) -> F64:
    """The nearest multiples of each head's largest element / 127.

    Which is nearest is told in float32, as the format has it: many elements lie half-way.
    """
    largest = np.abs(x).max(axis=-1, keepdims=True)
    codes: F64 = np.rint(x * (np.float32(127) / largest)).astype(float)
    rounded: F64 = codes * (largest / np.float32(127))
    return rounded


def int8_keys(x: NDArray[np.float32]) -> F64:
    """The same of heads that are multiplied by a Hadamard matrix, which is then taken back.

    Elements must be such that their sums are exact. The matrix has the largest power of two that
    divides the width, and blocks of it the width.
    """
    width = x.shape[-1]
    size = math.gcd(width, 1 << 20)
    signs = [[-1 if (i & j).bit_count() % 2 else 1 for j in range(size)] for i in range(size)]
    matrix = np.kron(np.eye(width // size), np.array(signs, float))
    return int8((x @ matrix).astype(np.float32)) @ matrix / size


def attention_row(
    q: F64,
    keys: F64,
    values: F64,
    slot: int,
    spec: AttentionSpec,
    sinks: F64 | None,
    block: range | None = None,
) -> F64:
    """One row: q [heads, head_dim], keys and values [positions, kv heads, dim] as the cache has
    them -> [heads * value_dim]. ``block`` are the positions of its block, where it has one."""
    out = []
    for head in range(spec.num_heads):
        kv = head // (spec.num_heads // spec.num_kv_heads)
        seen = [
            j
            for j in range(len(keys))
            if (j <= slot or not spec.causal)
            and (spec.window is None or abs(slot - j) < spec.window)
            and (spec.chunk is None or j // spec.chunk == slot // spec.chunk)
            and (not spec.block_diagonal or (block is not None and j in block))
        ]
        scores = [float(q[head] @ keys[j, kv]) * spec.score_scale for j in seen]
        if spec.softcap is not None:
            scores = [spec.softcap * math.tanh(score / spec.softcap) for score in scores]
        if spec.alibi is not None:
            slope = alibi_slope(head, spec.num_heads, spec.alibi)
            scores = [s - slope * abs(slot - j) for s, j in zip(scores, seen, strict=True)]
        sink = [] if sinks is None else [float(sinks[head])]
        top = max([*scores, *sink])
        weights = [math.exp(score - top) for score in scores]
        total = sum(weights) + sum(math.exp(score - top) for score in sink)
        out.append(sum(w / total * values[j, kv] for w, j in zip(weights, seen, strict=True)))
    return np.concatenate(out)


def alibi_slope(head: int, num_heads: int, largest: float) -> float:
    """What a head's score loses for a position of distance (https://arxiv.org/abs/2108.12409)."""
    if math.log2(num_heads).is_integer():
        return float(2 ** (-largest / num_heads)) ** (head + 1)
    below = 2 ** math.floor(math.log2(num_heads))
    if head < below:
        return alibi_slope(head, below, largest)
    return alibi_slope(2 * (head - below), 2 * below, largest)


def activation(function: Activation, x: F64) -> F64:
    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v))

    def one(v: float) -> float:
        return {
            Activation.SILU: lambda: v * sigmoid(v),
            Activation.GELU: lambda: v * 0.5 * math.erfc(-v / math.sqrt(2)),
            Activation.GELU_TANH: lambda: (
                0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
            ),
            Activation.RELU: lambda: max(v, 0.0),
            Activation.SIGMOID: lambda: sigmoid(v),
            Activation.TANH: lambda: math.tanh(v),
        }[function]()

    return np.array([[one(float(v)) for v in row] for row in x])


def moe_row(
    x: F64,
    logits: F64,
    matrices: tuple[F64, F64, F64],
    biases: tuple[F64 | None, F64 | None, F64 | None],
    choice_bias: F64 | None,
    spec: MoeSpec,
) -> F64:
    """One row: x [width], logits [experts], gate, up and down matrices by expert -> [width]."""
    if spec.scoring.value == "sigmoid":
        scores = [1 / (1 + math.exp(-v)) for v in logits]
    else:
        total = sum(math.exp(v) for v in logits)
        scores = [math.exp(v) / total for v in logits]
    bias = [0.0] * len(scores) if choice_bias is None else choice_bias.tolist()
    order = sorted(range(len(scores)), key=lambda e: (-(scores[e] + bias[e]), e))[: spec.top_k]
    total = sum(scores[e] for e in order) if spec.normalize else 1.0
    out = np.zeros_like(x)
    for e in order:
        products = []
        for matrix, shift in zip(matrices[:2], biases[:2], strict=True):
            products.append(matrix[e] @ x + (0.0 if shift is None else shift[e]))
        gate, up = products
        if isinstance(spec.function, Activation):
            inner = activation(spec.function, gate[None])[0] * up
        else:
            alpha, limit = spec.function.alpha, spec.function.limit
            inner = np.array(
                [
                    min(g, limit)
                    / (1 + math.exp(-alpha * min(g, limit)))
                    * (max(-limit, min(u, limit)) + 1)
                    for g, u in zip(gate.tolist(), up.tolist(), strict=True)
                ]
            )
        answer = matrices[2][e] @ inner + (0.0 if biases[2] is None else biases[2][e])
        out += scores[e] / total * spec.scale * answer
    return out
