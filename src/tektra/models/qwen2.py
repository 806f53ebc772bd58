"""Qwen2 and Qwen2.5: llama with biases on query, key and value, and halves rotated as pairs.

Source: the Qwen2 report, https://arxiv.org/abs/2407.10671. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph, RopeLayout
from tektra.models import llama
from tektra.models.base import MAX_LAYERS
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.checkpoint_windows import window_metadata

__all__ = ["CHECKPOINT", "Config", "build", "checkpoint_metadata"]


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


def checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    """Metadata of a checkpoint: the layers from ``max_window_layers`` on may have a window."""
    c.only("hidden_act", "silu", "swish")
    metadata = common_metadata(c)
    if not c.bool("use_sliding_window", default=False):
        return metadata
    c = c.defaulting({"sliding_window": 4096})
    first = c.int("max_window_layers", default=28, minimum=0, maximum=MAX_LAYERS)
    return metadata | window_metadata(c, metadata["block_count"], lambda i: i >= first)


CHECKPOINT: Final = CheckpointFormat(
    architecture="qwen2",
    metadata=checkpoint_metadata,
    tensors=llama.TENSORS,
    made=rope_tensors,
)
