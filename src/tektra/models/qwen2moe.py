"""Qwen1.5-MoE and Qwen2-MoE: qwen2 with a mixture of experts and a gated shared expert.

Source: the Qwen2 report, https://arxiv.org/abs/2407.10671. States only what differs from qwen2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tektra.formats.hf_config import HfConfig
from tektra.models import llama, qwen2
from tektra.models.base import MAX_LAYERS, MAX_WIDTH
from tektra.models.checkpoint_config import common_metadata, rope_tensors
from tektra.models.checkpoint_format import CheckpointFormat, Target
from tektra.models.experts import STACKED_EXPERTS, expert_metadata
from tektra.models.qwen2 import build

__all__ = ["CHECKPOINT", "TENSORS", "Config", "build", "sparse_metadata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(qwen2.Config):
    """Configuration of a qwen2moe model."""

    normalizes_experts: ClassVar[bool] = False


def sparse_metadata(c: HfConfig) -> dict[str, Any]:
    """What qwen2moe and qwen3moe have in common."""
    c.only("hidden_act", "silu", "swish")
    c.only("use_sliding_window", False)
    # Which layers have experts the tensors say: those of a dense layer have other names.
    c.int("decoder_sparse_step", default=1, minimum=0, maximum=MAX_LAYERS)
    c.int_list("mlp_only_layers", default=[], minimum=0, maximum=MAX_LAYERS)
    return common_metadata(c) | expert_metadata(c)


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("qkv_bias", True)
    width = c.int("shared_expert_intermediate_size", minimum=1, maximum=MAX_WIDTH)
    return sparse_metadata(c) | {"expert_shared_feed_forward_length": width}


_MLP = "model.layers.{i}.mlp"
TENSORS: Final[dict[str, Target]] = {
    **llama.TENSORS,
    f"{_MLP}.experts.{{e}}.gate_proj": "blk.{i}.ffn_gate_exps",
    f"{_MLP}.experts.{{e}}.up_proj": "blk.{i}.ffn_up_exps",
    f"{_MLP}.experts.{{e}}.down_proj": "blk.{i}.ffn_down_exps",
    **STACKED_EXPERTS,
}
"""Names of a checkpoint of this shape -> GGUF's."""

CHECKPOINT: Final = CheckpointFormat(
    architecture="qwen2moe",
    metadata=_checkpoint_metadata,
    tensors={
        **TENSORS,
        f"{_MLP}.shared_expert.gate_proj": "blk.{i}.ffn_gate_shexp",
        f"{_MLP}.shared_expert.up_proj": "blk.{i}.ffn_up_shexp",
        f"{_MLP}.shared_expert.down_proj": "blk.{i}.ffn_down_shexp",
        f"{_MLP}.shared_expert_gate": "blk.{i}.ffn_gate_inp_shexp",
    },
    made=rope_tensors,
)
