"""Granite with a mixture of experts, with and without shared experts.

Source: the model cards of Granite 3, https://huggingface.co/ibm-granite. States only what differs
from granite.
"""

from __future__ import annotations

from typing import Any, Final

from tektra.formats.hf_config import HfConfig
from tektra.models import granite
from tektra.models.base import MAX_WIDTH
from tektra.models.checkpoint_format import CheckpointFormat, Part, To
from tektra.models.experts import expert_metadata

__all__ = ["CHECKPOINT", "Config", "build"]

Config, build = granite.Config, granite.build


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    metadata = granite.CHECKPOINT.metadata(c)
    metadata |= expert_metadata(c, count="num_local_experts", normalize=True, width=None)
    shared = c.int("shared_intermediate_size", default=0, minimum=0, maximum=MAX_WIDTH)
    if shared:
        metadata["expert_shared_feed_forward_length"] = shared
    return metadata


_LAYER = "model.layers.{i}"
CHECKPOINT: Final = CheckpointFormat(
    architecture="granitemoe",
    metadata=_checkpoint_metadata,
    tensors={
        **granite.CHECKPOINT.tensors,
        f"{_LAYER}.block_sparse_moe.router.layer": "blk.{i}.ffn_gate_inp",
        f"{_LAYER}.block_sparse_moe.input_linear": (
            To("blk.{i}.ffn_gate_exps", Part(0, 2)),
            To("blk.{i}.ffn_up_exps", Part(1, 2)),
        ),
        f"{_LAYER}.block_sparse_moe.output_linear": "blk.{i}.ffn_down_exps",
        f"{_LAYER}.shared_mlp.input_linear": (
            To("blk.{i}.ffn_gate_shexp", Part(0, 2)),
            To("blk.{i}.ffn_up_shexp", Part(1, 2)),
        ),
        f"{_LAYER}.shared_mlp.output_linear": "blk.{i}.ffn_down_shexp",
    },
    made=granite.CHECKPOINT.made,
)
