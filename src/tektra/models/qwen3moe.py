"""Qwen3 with a mixture of experts, as Qwen3-30B-A3B.

Source: the Qwen3 report, https://arxiv.org/abs/2505.09388. States only what differs from qwen3.
"""

from __future__ import annotations

from typing import Final

from tektra.models import qwen3
from tektra.models.checkpoint_config import rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.qwen2moe import TENSORS, sparse_metadata

__all__ = ["CHECKPOINT", "Config", "build"]

Config, build = qwen3.Config, qwen3.build

CHECKPOINT: Final = CheckpointFormat(
    architecture="qwen3moe",
    metadata=sparse_metadata,
    tensors={
        **TENSORS,
        "model.layers.{i}.self_attn.q_norm": "blk.{i}.attn_q_norm",
        "model.layers.{i}.self_attn.k_norm": "blk.{i}.attn_k_norm",
    },
    made=rope_tensors,
)
