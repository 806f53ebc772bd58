"""What attention and rotary positions are told: plain data that every backend reads.

It does not know how either is computed, only what is to be computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Activation",
    "AttentionSpec",
    "ClampedGate",
    "EmbedBy",
    "MoeSpec",
    "RopeLayout",
    "RopeScaling",
    "RopeSpec",
    "Scoring",
]


class Activation(Enum):
    """Elementwise non-linearities."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"


class EmbedBy(Enum):
    """Which number of a row says what it looks up in a table."""

    TOKEN = "token"
    """Its token."""
    POSITION = "position"
    """Its position in the sequence (learned positions, as BERT has them)."""
    SEGMENT = "segment"
    """Which of the texts of its sequence it belongs to: 0, or 1 for the second of a pair."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One kind of attention over the paged cache.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key and value heads; query head h reads head h // (num_heads / num_kv_heads).
        head_dim: width of one query and key head.
        value_head_dim: width of one value head; ``None`` for the same as ``head_dim``.
        scale: factor on the dot products; ``None`` for 1 / sqrt(head_dim).
        causal: whether a row sees only positions up to its own. A bidirectional row sees every
            position of its sequence that the step knows.
        window: how many positions, its own included, a row sees to a side; ``None`` for all.
        chunk: positions lie in chunks of so many, and a row sees its own chunk alone; ``None`` for
            one chunk.
        block_diagonal: whether a row sees only the rows of its block (`Step.block_starts`).
        alibi: the largest exponent of linear biases by distance, as `slopes` has it; ``None`` for
            no biases.
        softcap: logits become ``softcap * tanh(logits / softcap)``; ``None`` for none.
        sinks: name of a float tensor [num_heads] whose entries join the softmax denominator as
            logits without a value; ``None`` for none.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int | None = None
    scale: float | None = None
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: str | None = None
    chunk: int | None = None
    block_diagonal: bool = False
    alibi: float | None = None

    @property
    def value_dim(self) -> int:
        return self.head_dim if self.value_head_dim is None else self.value_head_dim

    @property
    def score_scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim) if self.scale is None else self.scale

    @property
    def slopes(self) -> tuple[float, ...]:
        """What each head's scores lose for each position of distance; empty without ``alibi``.

        Press et al., https://arxiv.org/abs/2108.12409: powers of 2 ** (-alibi / n) for n heads, and
        where n is no power of two, those of the next smaller one and then every second one of the
        next larger.
        """
        if self.alibi is None:
            return ()
        whole = 1 << (self.num_heads.bit_length() - 1)
        between = range(self.num_heads - whole)
        return (
            *(2.0 ** (-self.alibi * (h + 1) / whole) for h in range(whole)),
            *(2.0 ** (-self.alibi * (2 * h + 1) / (2 * whole)) for h in between),
        )

    def span(
        self, at: NDArray[np.int64], length: int, blocks: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First position that rows see, and the one after the last: what they see is connected.

        Args:
            at: [n] positions of the rows in their sequence.
            length: positions of the sequence that the step knows.
            blocks: [2, n] first position of each row's block, and the one after its last.
        """
        first = np.zeros_like(at)
        last = at + 1 if self.causal else np.full_like(at, length)
        if self.window is not None:
            first, last = (
                np.maximum(first, at + 1 - self.window),
                np.minimum(last, at + self.window),
            )
        if self.chunk is not None:
            start = at // self.chunk * self.chunk
            first, last = np.maximum(first, start), np.minimum(last, start + self.chunk)
        if self.block_diagonal and blocks is not None:
            first, last = np.maximum(first, blocks[0]), np.minimum(last, blocks[1])
        return first, last


class RopeLayout(Enum):
    """Which two elements of a head are rotated together."""

    INTERLEAVED = "interleaved"
    """Elements 2i and 2i + 1 (GGUF's llama tensors)."""
    HALF = "half"
    """Elements i and i + dim / 2 (qwen2, and checkpoints in the transformers layout)."""


class RopeScaling(Enum):
    """How rotary frequencies are stretched beyond the trained context."""

    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864) and its scalings.

    Attributes:
        head_dim: width of one head of the values that are rotated.
        dim: how many leading elements of each head are rotated; even, at most ``head_dim``.
        base: base of the frequencies, theta.
        layout: which elements form a pair.
        scaling: ``LINEAR`` divides positions by ``factor``; ``YARN`` (Peng et al.,
            https://arxiv.org/abs/2309.00071) blends that in by frequency.
        factor: how much longer than the original context the model reads.
        original_context: context in tokens that the model was trained with; needed by YARN.
        beta_fast, beta_slow: rotations over the original context above which YARN keeps a
            frequency, and below which it divides it by ``factor``.
        truncate: whether YARN's blend begins and ends at whole pairs.
        attention_factor: factor on cosine and sine; ``None`` for what the scaling prescribes.
        freq_factors: name of a float tensor [dim / 2] that divides the frequencies (the form in
            which GGUF carries Llama 3's and LongRoPE's scaling); ``None`` for none.
        sections: how many of the dim / 2 frequencies follow each coordinate of a multimodal
            position; empty for ordinary positions.
    """

    head_dim: int
    dim: int
    base: float
    layout: RopeLayout
    scaling: RopeScaling = RopeScaling.NONE
    factor: float = 1.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    freq_factors: str | None = None
    sections: tuple[int, ...] = field(default=())

    def inverse_frequencies(
        self, freq_factors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Radians per position of each pair: float64 [dim / 2].

        ``freq_factors`` holds the tensor that the attribute of that name points to.
        """
        pairs = np.arange(self.dim // 2, dtype=np.float64)
        frequencies = self.base ** (-2.0 * pairs / self.dim)
        if freq_factors is not None:
            frequencies = frequencies / freq_factors.astype(np.float64)
        if self.scaling is RopeScaling.LINEAR:
            return frequencies / self.factor
        if self.scaling is RopeScaling.YARN:
            low, high = self._correction_range()
            ramp = np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
            return frequencies / self.factor * ramp + frequencies * (1.0 - ramp)
        return frequencies

    @property
    def magnitude(self) -> float:
        """Factor on cosine and sine."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.scaling is RopeScaling.YARN and self.factor > 1.0:
            return 0.1 * math.log(self.factor) + 1.0
        return 1.0

    def _correction_range(self) -> tuple[float, float]:
        """First and last pair between which YARN blends, as (low, high)."""

        def pair_of(rotations: float) -> float:
            return (self.dim * math.log(self.original_context / (rotations * 2.0 * math.pi))) / (
                2.0 * math.log(self.base)
            )

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        return max(low, 0), min(high, self.dim - 1)


class Scoring(Enum):
    """How a router's logits become scores."""

    SOFTMAX = "softmax"
    """Over all experts. With normalized weights the same as a softmax over the chosen ones."""
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """The gated product of gpt-oss (model card, https://arxiv.org/abs/2508.10925), clamped.

    With gate at most ``limit`` and up within +-``limit`` the product is
    ``gate * sigmoid(alpha * gate) * (up + 1)``.
    """

    alpha: float = 1.702
    limit: float = 7.0


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """How the experts of one layer are chosen and what each of them computes.

    Attributes:
        num_experts: experts there are.
        top_k: how many of them a row is sent to: those of the highest scores, of equal ones those
            that come first.
        scoring: how logits become scores, which weigh what the chosen experts answer.
        normalize: whether the weights of a row are divided by their sum.
        scale: factor on the weights, after that.
        function: what is done to the gate: an activation, or the clamped product.
    """

    num_experts: int
    top_k: int
    scoring: Scoring = Scoring.SOFTMAX
    normalize: bool = True
    scale: float = 1.0
    function: Activation | ClampedGate = Activation.SILU
