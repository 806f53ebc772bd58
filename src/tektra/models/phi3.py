"""Phi-3, Phi-3.5 and Phi-4: llama with query, key and value in one matrix, and gate and up in
another, halves rotated as pairs, sometimes only of a part of a head, and LongRoPE.

Source: the Phi-3 report, https://arxiv.org/abs/2404.14219. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import RopeLayout
from tektra.models import llama
from tektra.models.base import MAX_CONTEXT
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.checkpoint_windows import window_metadata
from tektra.models.llama import build

__all__ = ["CHECKPOINT", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a phi3 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    fused_gate: ClassVar[bool] = True


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    # LongRoPE's, but all files have it: a bad value is refused wherever it stands.
    c.int("original_max_position_embeddings", default=1, minimum=1, maximum=MAX_CONTEXT)
    metadata = common_metadata(c, default_eps=1e-5)
    return metadata | window_metadata(c, metadata["block_count"])


CHECKPOINT: Final = CheckpointFormat(
    architecture="phi3",
    metadata=_checkpoint_metadata,
    tensors={
        **llama.TENSORS,
        "model.layers.{i}.self_attn.qkv_proj": "blk.{i}.attn_qkv",
        "model.layers.{i}.mlp.gate_up_proj": "blk.{i}.ffn_up",
    },
    made=rope_tensors,
)
