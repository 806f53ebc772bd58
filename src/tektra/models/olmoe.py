"""OLMoE: llama with a mixture of experts, and query and key normalized over all heads.

Source: https://arxiv.org/abs/2409.02060. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.graph import RopeLayout
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.experts import expert_metadata
from tektra.models.llama import build
from tektra.models.qwen2moe import TENSORS

__all__ = ["CHECKPOINT", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of an olmoe model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    whole_norms: ClassVar[bool] = True
    normalizes_experts: ClassVar[bool] = False


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    c.only("clip_qkv")  # None, which counts as missing
    return common_metadata(c, default_eps=1e-5) | expert_metadata(c, width=None)


CHECKPOINT: Final = CheckpointFormat(
    architecture="olmoe",
    metadata=_checkpoint_metadata,
    tensors={
        **TENSORS,
        "model.layers.{i}.self_attn.q_norm": "blk.{i}.attn_q_norm",
        "model.layers.{i}.self_attn.k_norm": "blk.{i}.attn_k_norm",
    },
    made=rope_tensors,
)
