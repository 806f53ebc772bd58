"""Llama and the many models of its shape: Llama 1 to 3, Mistral, SmolLM2, Yi, TinyLlama...

Pre-norm transformer with RMS norm, rotary positions, grouped-query attention and a gated SiLU feed
forward (Touvron et al., https://arxiv.org/abs/2302.13971). Tensor names and keys are GGUF's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import (
    Activation,
    AttentionSpec,
    Graph,
    LayerWeights,
    RopeLayout,
    RopeSpec,
    Value,
)
from tektra.models.base import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_WIDTH,
    ModelConfig,
    Shapes,
    check_width,
    read_num_layers,
    read_vocab_size,
    uniform_int,
)
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat, Heads, To
from tektra.models.rope_metadata import read_rope

__all__ = ["CHECKPOINT", "TENSORS", "Config", "attention", "build", "feed_forward", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ModelConfig):
    """Configuration of a llama-shaped model.

    Attributes:
        norm_eps: added to the mean square in every norm.
        attention: head counts and sizes.
        rope: rotary positions.
        output_tensor: what makes logits; the embedding table where the two are tied.
    """

    norm_eps: float
    attention: AttentionSpec
    rope: RopeSpec
    output_tensor: str

    rope_layout: ClassVar[RopeLayout] = RopeLayout.INTERLEAVED
    """GGUF's llama tensors have the rows of q and k permuted so that pairs are neighbours."""

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        architecture = m.str("general.architecture")
        key = architecture
        _refuse_variants(m, key)
        num_layers = read_num_layers(m, shapes, f"{key}.block_count")
        width = m.int(f"{key}.embedding_length", minimum=1, maximum=MAX_WIDTH)
        check_width(shapes, "token_embd.weight", 1, width, f"{key}.embedding_length")
        ffn_width = uniform_int(m, f"{key}.feed_forward_length", num_layers, maximum=MAX_WIDTH)
        check_width(shapes, "blk.0.ffn_gate.weight", 0, ffn_width, f"{key}.feed_forward_length")
        context_length = m.int(f"{key}.context_length", minimum=1, maximum=MAX_CONTEXT)
        attention = _read_attention(m, shapes, key, num_layers=num_layers, width=width)
        return cls(
            architecture=architecture,
            num_layers=num_layers,
            context_length=context_length,
            vocab_size=read_vocab_size(m, shapes, f"{key}.vocab_size"),
            embedding_width=width,
            norm_eps=m.float(f"{key}.attention.layer_norm_rms_epsilon", minimum=1e-30, maximum=1.0),
            attention=attention,
            rope=read_rope(
                m,
                shapes,
                architecture=architecture,
                head_dim=attention.head_dim,
                context_length=context_length,
                layout=cls.rope_layout,
            ),
            output_tensor="output" if "output.weight" in shapes else "token_embd",
        )


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.embed("token_embd.weight")
    for i in range(c.num_layers):
        w = g.layer(i)
        x = g.add(x, attention(g, c, x, w, layer=i))
        if i == c.num_layers - 1:
            # After the last attention no row needs its neighbours: the rest is spared for rows
            # whose result nobody wants.
            x = g.select_outputs(x)
        x = g.add(x, feed_forward(g, c, x, w))
    head(g, c, x)


def attention(g: Graph, c: Config, x: Value, w: LayerWeights, *, layer: int) -> Value:
    """Norm, projections, rotary positions, attention and its output projection."""
    h = g.rms_norm(x, w["attn_norm.weight"], c.norm_eps)
    q, k, v = g.linear(h, w["attn_q"], w["attn_k"], w["attn_v"])
    q, k = g.rope(q, c.rope), g.rope(k, c.rope)
    return g.linear(g.attention(q, k, v, layer=layer, spec=c.attention), w["attn_output"])


def feed_forward(g: Graph, c: Config, x: Value, w: LayerWeights) -> Value:
    """Norm and the gated feed forward."""
    h = g.rms_norm(x, w["ffn_norm.weight"], c.norm_eps)
    gate, up = g.linear(h, w["ffn_gate"], w["ffn_up"])
    return g.linear(g.gated(gate, up, Activation.SILU), w["ffn_down"])


def head(g: Graph, c: Config, x: Value) -> None:
    """The final norm and the logits of the rows that are wanted."""
    x = g.rms_norm(x, "output_norm.weight", c.norm_eps)
    g.output("hidden", x)
    g.output("logits", g.linear(x, c.output_tensor))


def _read_attention(
    m: Metadata, shapes: Shapes, key: str, *, num_layers: int, width: int
) -> AttentionSpec:
    heads_key, kv_heads_key = f"{key}.attention.head_count", f"{key}.attention.head_count_kv"
    num_heads = uniform_int(m, heads_key, num_layers, maximum=MAX_HEADS)
    num_kv_heads = uniform_int(m, kv_heads_key, num_layers, default=num_heads, maximum=MAX_HEADS)
    if num_heads % num_kv_heads:
        raise FormatError(
            f"the metadata key {kv_heads_key!r} is {num_kv_heads}, which does not divide the "
            f"{num_heads} query heads"
        )
    if width % num_heads and not m.has(f"{key}.attention.key_length"):
        raise FormatError(
            f"the metadata key {heads_key!r} is {num_heads}, which does not divide the "
            f"embedding width {width}"
        )
    default = max(1, width // num_heads)
    head_dim = m.int(f"{key}.attention.key_length", default=default, minimum=1, maximum=MAX_WIDTH)
    value_dim = m.int(
        f"{key}.attention.value_length", default=default, minimum=1, maximum=MAX_WIDTH
    )
    sizes = f"{heads_key}, {kv_heads_key}, {key}.attention.key_length and value_length"
    check_width(shapes, "blk.0.attn_q.weight", 0, num_heads * head_dim, sizes)
    check_width(shapes, "blk.0.attn_k.weight", 0, num_kv_heads * head_dim, sizes)
    check_width(shapes, "blk.0.attn_v.weight", 0, num_kv_heads * value_dim, sizes)
    scale = m.float(f"{key}.attention.scale", default=0.0, minimum=0.0, maximum=1e6)
    window = m.int(f"{key}.attention.sliding_window", default=0, minimum=0, maximum=MAX_CONTEXT)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        value_head_dim=value_dim if value_dim != head_dim else None,
        scale=scale or None,
        window=window or None,
    )


def _refuse_variants(m: Metadata, key: str) -> None:
    """Raises for what shares the name of the architecture and is computed otherwise."""
    if m.int(f"{key}.expert_count", default=0, minimum=0) > 0:
        raise UnsupportedModelError(
            f"the model is a mixture of experts ({key}.expert_count), which is not supported yet"
        )
    if not m.bool(f"{key}.attention.causal", default=True):
        raise UnsupportedModelError(
            f"the model's attention is not causal ({key}.attention.causal), "
            "which is not supported yet"
        )


# The Hugging Face form


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    return common_metadata(c)


TENSORS: Final = {
    "model.embed_tokens": "token_embd",
    "model.layers.{i}.input_layernorm": "blk.{i}.attn_norm",
    "model.layers.{i}.self_attn.q_proj": "blk.{i}.attn_q",
    "model.layers.{i}.self_attn.k_proj": "blk.{i}.attn_k",
    "model.layers.{i}.self_attn.v_proj": "blk.{i}.attn_v",
    "model.layers.{i}.self_attn.o_proj": "blk.{i}.attn_output",
    "model.layers.{i}.post_attention_layernorm": "blk.{i}.ffn_norm",
    "model.layers.{i}.mlp.gate_proj": "blk.{i}.ffn_gate",
    "model.layers.{i}.mlp.up_proj": "blk.{i}.ffn_up",
    "model.layers.{i}.mlp.down_proj": "blk.{i}.ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}
"""Names of a checkpoint of this shape -> GGUF's, for models that rotate halves."""

CHECKPOINT: Final = CheckpointFormat(
    architecture="llama",
    metadata=_checkpoint_metadata,
    tensors={
        **TENSORS,
        "model.layers.{i}.self_attn.q_proj": To("blk.{i}.attn_q", Heads("attention.head_count")),
        "model.layers.{i}.self_attn.k_proj": To("blk.{i}.attn_k", Heads("attention.head_count_kv")),
    },
    made=rope_tensors,
)
