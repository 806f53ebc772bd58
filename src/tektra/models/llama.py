"""Llama and the many models of its shape: Llama 1 to 3, Mistral, SmolLM2, Yi, TinyLlama...

Pre-norm transformer with RMS norm, rotary positions, grouped-query attention and a gated SiLU feed
forward (Touvron et al., https://arxiv.org/abs/2302.13971). Tensor names and keys are GGUF's.
"""

from __future__ import annotations

from typing import Any, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph, LayerWeights, Value
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat, Heads, To
from tektra.models.decoder_config import Config, read
from tektra.models.experts import is_dense, mixture

__all__ = [
    "CHECKPOINT",
    "TENSORS",
    "Config",
    "attend",
    "attention",
    "build",
    "feed_forward",
    "gated",
    "head",
    "layers",
    "project",
    "read",
]


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    head(g, c, layers(g, c, g.embed("token_embd.weight")))


def layers(g: Graph, c: Config, x: Value) -> Value:
    """All layers; what comes out are the rows whose result is wanted."""
    for i in range(c.num_layers):
        w = g.layer(i)
        x = g.add(x, attention(g, c, x, w, layer=i))
        if i == c.num_layers - 1:
            # After the last attention no row needs its neighbours: the rest is spared for rows
            # whose result nobody wants.
            x = g.select_outputs(x)
        x = g.add(x, feed_forward(g, c, x, w))
    return x


def attention(g: Graph, c: Config, x: Value, w: LayerWeights, *, layer: int) -> Value:
    """Norm, projections, rotary positions, attention and its output projection."""
    h = g.rms_norm(x, w["attn_norm.weight"], c.norm_eps)
    q, k, v = project(g, c, h, w)
    if c.head_norms or c.whole_norms:
        group = None if c.whole_norms else c.attention.head_dim
        q = g.rms_norm(q, w["attn_q_norm.weight"], c.norm_eps, group=group)
        k = g.rms_norm(k, w["attn_k_norm.weight"], c.norm_eps, group=group)
    return attend(g, c, q, k, v, w, layer=layer)


def project(g: Graph, c: Config, h: Value, w: LayerWeights) -> tuple[Value, Value, Value]:
    """Query, key and value, by three matrices or one."""
    if not g.has(w["attn_qkv.weight"]):
        q, k, v = g.linear(h, w["attn_q"], w["attn_k"], w["attn_v"])
        return q, k, v
    a = c.attention
    widths = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, a.num_kv_heads * a.value_dim
    q, k, v = g.split(g.linear(h, w["attn_qkv"]), *widths)
    return q, k, v


def attend(
    g: Graph, c: Config, q: Value, k: Value, v: Value, w: LayerWeights, *, layer: int
) -> Value:
    """Rotary positions, attention and its output projection."""
    rope = c.rope_of(layer)
    if rope is not None:
        q, k = g.rope(q, rope), g.rope(k, rope)
    out = g.attention(q, k, v, layer=layer, spec=c.attention_of(layer))
    return g.linear(out, w["attn_output"])


def feed_forward(g: Graph, c: Config, x: Value, w: LayerWeights) -> Value:
    """Norm and the gated feed forward, or the mixture of experts that is there instead."""
    h = g.rms_norm(x, w[f"{c.ffn_norm}.weight"], c.norm_eps)
    if c.experts is not None and not is_dense(g, w):
        return mixture(g, h, w, c.experts)
    return gated(g, c, h, w)


def gated(g: Graph, c: Config, h: Value, w: LayerWeights) -> Value:
    """The gated feed forward."""
    if c.fused_gate:
        both = g.linear(h, w["ffn_up"])
        gate, up = g.split(both, both.width // 2, both.width - both.width // 2)
    else:
        gate, up = g.linear(h, w["ffn_gate"], w["ffn_up"])
    return g.linear(g.gated(gate, up, c.activation), w["ffn_down"])


def head(
    g: Graph, c: Config, x: Value, *, scale: float = 1.0, softcap: float | None = None
) -> None:
    """The final norm and the logits of the rows that are wanted.

    Logits are multiplied by ``scale``, then soft-capped.
    """
    x = g.rms_norm(x, "output_norm.weight", c.norm_eps)
    g.output("hidden", x)
    logits = g.linear(x, c.output_tensor)
    if scale != 1.0:
        logits = g.scale(logits, scale)
    if softcap is not None:
        logits = g.softcap(logits, softcap)
    g.output("logits", logits)


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
