"""Gemma: llama with scaled embeddings, a gated GELU, and halves rotated as pairs.

Source: the Gemma report, https://arxiv.org/abs/2403.08295. GGUF's norms have their 1 added.
States only what differs from llama.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import Activation, Graph, RopeLayout, Value
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import AddOne, CheckpointFormat, Target, To

__all__ = ["CHECKPOINT", "TENSORS", "Config", "build", "checkpoint_metadata", "embed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a gemma model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    activation: ClassVar[Activation] = Activation.GELU_TANH


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    llama.head(g, c, llama.layers(g, c, embed(g, c)))


def embed(g: Graph, c: Config) -> Value:
    """The embeddings, times the root of their width."""
    return g.scale(g.embed("token_embd.weight"), math.sqrt(c.embedding_width))


def checkpoint_metadata(c: HfConfig, *, default_theta: float = 10_000.0) -> dict[str, Any]:
    """Metadata of a checkpoint of this family."""
    # The first files say "gelu" and mean its approximation, as transformers takes it.
    for key in ("hidden_act", "hidden_activation"):
        c.only(key, "gelu_pytorch_tanh", "gelu")
    c.only("use_bidirectional_attention", False)
    return common_metadata(c.defaulting({"head_dim": 256}), default_theta=default_theta)


TENSORS: Final[Mapping[str, Target]] = {
    **llama.TENSORS,
    "model.layers.{i}.input_layernorm": To("blk.{i}.attn_norm", AddOne()),
    "model.layers.{i}.post_attention_layernorm": To("blk.{i}.ffn_norm", AddOne()),
    "model.norm": To("output_norm", AddOne()),
}

CHECKPOINT: Final = CheckpointFormat(
    architecture="gemma",
    metadata=checkpoint_metadata,
    tensors=TENSORS,
    tied_by_default=True,
)
