"""What models of llama's shape say of themselves in files: sizes, attention, positions, experts.

`llama.py` draws them. A variant sets the class attributes that its files do not say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

from tektra.errors import UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.graph import Activation, AttentionSpec, ClampedGate, MoeSpec, RopeLayout, RopeSpec
from tektra.models.attention_metadata import read_attention, read_sliding
from tektra.models.base import (
    MAX_CONTEXT,
    MAX_WIDTH,
    ModelConfig,
    Shapes,
    check_width,
    read_num_layers,
    read_vocab_size,
    uniform_int,
)
from tektra.models.experts import read_experts
from tektra.models.rope_metadata import read_rope, read_sliding_rope

__all__ = ["Config", "read"]

_C = TypeVar("_C", bound="Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ModelConfig):
    """Configuration of a llama-shaped model.

    Attributes:
        norm_eps: added to the mean square in every norm.
        attention: head counts and sizes, and the window of the layers that have one.
        sliding: whether each layer sees only the window.
        rope: rotary positions.
        sliding_rope: those of the layers that see only the window.
        output_tensor: what makes logits; the embedding table where the two are tied.
        experts: how the experts of a layer are chosen; None for a model without.
    """

    norm_eps: float
    attention: AttentionSpec
    sliding: tuple[bool, ...]
    rope: RopeSpec
    sliding_rope: RopeSpec
    output_tensor: str
    experts: MoeSpec | None

    # What sets a variant apart that its files do not say.
    rope_layout: ClassVar[RopeLayout] = RopeLayout.INTERLEAVED
    """GGUF's llama tensors have the rows of q and k permuted so that pairs are neighbours."""
    activation: ClassVar[Activation] = Activation.SILU
    head_norms: ClassVar[bool] = False
    """Whether each head of query and key is normalized before it is rotated."""
    whole_norms: ClassVar[bool] = False
    """Whether query and key are normalized instead, all heads together."""
    ffn_norm: ClassVar[str] = "ffn_norm"
    normalizes_experts: ClassVar[bool] = True
    """Whether the weights of the experts of a row add up to 1, where a file does not say."""
    expert_function: ClassVar[Activation | ClampedGate] = Activation.SILU
    fused_gate: ClassVar[bool] = False
    """Whether ``ffn_up`` has the rows of the gate too, before its own."""
    sliding_window: ClassVar[int] = 0
    """The window where a file does not say; 0 for none."""
    sliding_period: ClassVar[int] = 0
    """Of so many layers all but the last have the window, where a file does not say; 0: all."""
    sliding_base: ClassVar[float | None] = None
    """The base of their rotary positions, where a file does not say; None: as the others."""
    sliding_scaled: ClassVar[bool] = True
    """Whether their rotary positions are scaled as those of the others."""

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        return read(cls, m, shapes)

    def attention_of(self, layer: int) -> AttentionSpec:
        """The attention of one layer."""
        return self.attention if self.sliding[layer] else replace(self.attention, window=None)

    def rope_of(self, layer: int) -> RopeSpec | None:
        """The rotary positions of one layer; None where it has none."""
        return self.sliding_rope if self.sliding[layer] else self.rope


def read(config: type[_C], m: Metadata, shapes: Shapes, **more: Any) -> _C:
    """Reads what all models of this shape have, for a class whose other fields are ``more``.

    Raises: as `ModelConfig.from_metadata`.
    """
    key = m.str("general.architecture")
    _refuse_variants(m, key)
    num_layers = read_num_layers(m, shapes, f"{key}.block_count")
    width = m.int(f"{key}.embedding_length", minimum=1, maximum=MAX_WIDTH)
    check_width(shapes, "token_embd.weight", 1, width, f"{key}.embedding_length")
    experts = read_experts(
        m, shapes, key, normalize=config.normalizes_experts, function=config.expert_function
    )
    if experts is None or m.has(f"{key}.feed_forward_length"):
        ffn_width = uniform_int(m, f"{key}.feed_forward_length", num_layers, maximum=MAX_WIDTH)
        check_width(shapes, "blk.0.ffn_gate.weight", 0, ffn_width, f"{key}.feed_forward_length")
        check_width(shapes, "blk.0.ffn_down.weight", 1, ffn_width, f"{key}.feed_forward_length")
    context_length = m.int(f"{key}.context_length", minimum=1, maximum=MAX_CONTEXT)
    attention = read_attention(
        m,
        shapes,
        architecture=key,
        num_layers=num_layers,
        width=width,
        window=config.sliding_window,
    )
    rope = read_rope(
        m,
        shapes,
        architecture=key,
        head_dim=attention.head_dim,
        context_length=context_length,
        layout=config.rope_layout,
    )
    fields: dict[str, Any] = {
        "architecture": key,
        "num_layers": num_layers,
        "context_length": context_length,
        "vocab_size": read_vocab_size(m, shapes, f"{key}.vocab_size"),
        "embedding_width": width,
        "norm_eps": m.float(f"{key}.attention.layer_norm_rms_epsilon", minimum=1e-30, maximum=1.0),
        "attention": attention,
        "sliding": read_sliding(m, key, attention, num_layers, period=config.sliding_period),
        "rope": rope,
        "sliding_rope": read_sliding_rope(
            m, key, rope, base=config.sliding_base, scaled=config.sliding_scaled
        ),
        "output_tensor": "output" if "output.weight" in shapes else "token_embd",
        "experts": experts,
    }
    return config(**(fields | more))


def _refuse_variants(m: Metadata, key: str) -> None:
    """Raises for what shares the name of the architecture and is computed otherwise."""
    if not m.bool(f"{key}.attention.causal", default=True):
        raise UnsupportedModelError(
            f"the model's attention is not causal ({key}.attention.causal), "
            "which is not supported yet"
        )
