"""Llama and the many models of its shape: Llama 1 to 3, Mistral, SmolLM2, Yi, TinyLlama...

Pre-norm transformer with RMS norm, rotary positions, grouped-query attention and a gated SiLU feed
forward (Touvron et al., https://arxiv.org/abs/2302.13971). Tensor names and keys are GGUF's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self, TypeVar

from tektra.errors import UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import (
    Activation,
    AttentionSpec,
    ClampedGate,
    Graph,
    LayerWeights,
    MoeSpec,
    RopeLayout,
    RopeSpec,
    Value,
)
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
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat, Heads, To
from tektra.models.experts import is_dense, mixture, read_experts
from tektra.models.rope_metadata import read_rope, read_sliding_rope

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


def _refuse_variants(m: Metadata, key: str) -> None:
    """Raises for what shares the name of the architecture and is computed otherwise."""
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
