"""Qwen3: llama with each head of query and key normalized, and halves rotated as pairs.

Source: the Qwen3 report, https://arxiv.org/abs/2505.09388. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import RopeLayout
from tektra.models import llama
from tektra.models.checkpoint_config import rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.llama import build
from tektra.models.qwen2 import checkpoint_metadata

__all__ = ["CHECKPOINT", "TENSORS", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a qwen3 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    head_norms: ClassVar[bool] = True


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    return checkpoint_metadata(c.defaulting({"head_dim": 128}))


TENSORS: Final = {
    **llama.TENSORS,
    "model.layers.{i}.self_attn.q_norm": "blk.{i}.attn_q_norm",
    "model.layers.{i}.self_attn.k_norm": "blk.{i}.attn_k_norm",
}

CHECKPOINT: Final = CheckpointFormat(
    architecture="qwen3",
    metadata=_checkpoint_metadata,
    tensors=TENSORS,
    made=rope_tensors,
)
