"""OLMo 2 and 3: llama with norms after attention and feed forward instead of before, query and key
normalized as whole rows, and halves rotated as pairs; of OLMo 3 three of four layers see a window.

Source: the OLMo 2 report, https://arxiv.org/abs/2501.00656. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph, LayerWeights, RopeLayout, Value
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.checkpoint_windows import kinds_of_rope, window_metadata

__all__ = ["CHECKPOINT", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of an olmo2 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    sliding_period: ClassVar[int] = 4
    sliding_scaled: ClassVar[bool] = False


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.embed("token_embd.weight")
    for i in range(c.num_layers):
        w = g.layer(i)
        h = _attention(g, c, x, w, layer=i)
        x = g.add(x, g.rms_norm(h, w["post_attention_norm.weight"], c.norm_eps))
        if i == c.num_layers - 1:
            x = g.select_outputs(x)
        h = llama.gated(g, c, x, w)
        x = g.add(x, g.rms_norm(h, w["post_ffw_norm.weight"], c.norm_eps))
    llama.head(g, c, x)


def _attention(g: Graph, c: Config, x: Value, w: LayerWeights, *, layer: int) -> Value:
    q, k, v = llama.project(g, c, x, w)
    q = g.rms_norm(q, w["attn_q_norm.weight"], c.norm_eps)
    k = g.rms_norm(k, w["attn_k_norm.weight"], c.norm_eps)
    return llama.attend(g, c, q, k, v, w, layer=layer)


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    c, _ = kinds_of_rope(c)
    old = c.class_name() == "Olmo2ForCausalLM"
    metadata = common_metadata(c, default_eps=1e-5, default_theta=1e4 if old else 5e5)
    if old:  # these have no windows
        return metadata
    c = c.defaulting({"sliding_window": 4096})
    return metadata | window_metadata(c, metadata["block_count"], lambda i: (i + 1) % 4 != 0)


CHECKPOINT: Final = CheckpointFormat(
    architecture="olmo2",
    metadata=_checkpoint_metadata,
    tensors={
        **llama.TENSORS,
        "model.layers.{i}.self_attn.q_norm": "blk.{i}.attn_q_norm",
        "model.layers.{i}.self_attn.k_norm": "blk.{i}.attn_k_norm",
        "model.layers.{i}.post_attention_layernorm": "blk.{i}.post_attention_norm",
        "model.layers.{i}.post_feedforward_layernorm": "blk.{i}.post_ffw_norm",
    },
)
