"""Qwen2 and Qwen2.5: llama with biases on query, key and value, and halves rotated as pairs.

Source: the Qwen2 report, https://arxiv.org/abs/2407.10671. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph, RopeLayout
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat

__all__ = ["CHECKPOINT", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a qwen2 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF


def build(g: Graph, c: Config) -> None:
    """Draws the model; each of query, key and value has to have its bias."""
    for i in range(c.num_layers):
        for name in ("attn_q.bias", "attn_k.bias", "attn_v.bias"):
            g.shape(g.layer(i)[name])
    llama.build(g, c)


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    c.only("use_sliding_window", False)
    return common_metadata(c)


CHECKPOINT: Final = CheckpointFormat(
    architecture="qwen2",
    metadata=_checkpoint_metadata,
    tensors=llama.TENSORS,
    made=rope_tensors,
)
