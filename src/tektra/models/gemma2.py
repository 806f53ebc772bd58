"""Gemma 2: gemma with norms after attention and feed forward too, soft caps, and every second
layer seeing only a window.

Source: the Gemma 2 report, https://arxiv.org/abs/2408.00118. What files leave out is as llama.cpp
takes it. States only what differs from gemma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph
from tektra.models import gemma, llama
from tektra.models.attention_metadata import read_softcap
from tektra.models.base import Shapes
from tektra.models.checkpoint_format import AddOne, CheckpointFormat, Target, To
from tektra.models.checkpoint_windows import window_metadata

__all__ = ["CHECKPOINT", "TENSORS", "Config", "build", "checkpoint_metadata", "score_scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(gemma.Config):
    """Configuration of a gemma2 model.

    Attributes:
        logit_softcap: soft cap on the logits of the model; None for none.
    """

    logit_softcap: float | None = None

    sliding_window: ClassVar[int] = 4096
    sliding_period: ClassVar[int] = 2
    layers_of_27b: ClassVar[int] = 46
    """The 27B model's scores are scaled by the share of a head in the width, not by the width of a
    head. Its files do not say so, but no other model has as many layers."""

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        key = m.str("general.architecture")
        c = llama.read(cls, m, shapes)
        softcap = read_softcap(m, f"{key}.attn_logit_softcapping", default=50.0)
        return replace(
            c,
            attention=replace(c.attention, scale=score_scale(c), softcap=softcap),
            logit_softcap=read_softcap(m, f"{key}.final_logit_softcapping", default=30.0),
        )


def score_scale(c: Config) -> float | None:
    """The scale of attention: what the file says, or what it is in files that do not say it."""
    if c.attention.scale is None and c.num_layers == c.layers_of_27b:
        return 1.0 / math.sqrt(c.embedding_width // c.attention.num_heads)
    return c.attention.scale


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = gemma.embed(g, c)
    for i in range(c.num_layers):
        w = g.layer(i)
        h = llama.attention(g, c, x, w, layer=i)
        x = g.add(x, g.rms_norm(h, w["post_attention_norm.weight"], c.norm_eps))
        if i == c.num_layers - 1:
            x = g.select_outputs(x)
        h = llama.feed_forward(g, c, x, w)
        x = g.add(x, g.rms_norm(h, w["post_ffw_norm.weight"], c.norm_eps))
    llama.head(g, c, x, softcap=c.logit_softcap)


def checkpoint_metadata(c: HfConfig, *, default_theta: float = 10_000.0) -> dict[str, Any]:
    """Metadata of a checkpoint of this family, without windows and soft caps."""
    scalar = c.float("query_pre_attn_scalar", default=256.0, minimum=1e-6, maximum=1e6)
    metadata = gemma.checkpoint_metadata(c, default_theta=default_theta)
    return metadata | {"attention.scale": scalar**-0.5}


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    metadata = checkpoint_metadata(c)
    c = c.defaulting({"sliding_window": 4096})
    windows = window_metadata(c, metadata["block_count"], lambda i: i % 2 == 0)
    # Files without the key mean the window of the published models.
    metadata |= windows or {"attention.sliding_window": 0}
    for key, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        cap = 0.0 if c.is_null(key) else default
        metadata[key] = c.float(key, default=cap, minimum=0.0, maximum=1e6)
    return metadata


TENSORS: Final[Mapping[str, Target]] = {
    **gemma.TENSORS,
    "model.layers.{i}.post_attention_layernorm": To("blk.{i}.post_attention_norm", AddOne()),
    "model.layers.{i}.pre_feedforward_layernorm": To("blk.{i}.ffn_norm", AddOne()),
    "model.layers.{i}.post_feedforward_layernorm": To("blk.{i}.post_ffw_norm", AddOne()),
}

CHECKPOINT: Final = CheckpointFormat(
    architecture="gemma2",
    metadata=_checkpoint_metadata,
    tensors=TENSORS,
    tied_by_default=True,
)
