"""Mixtral: llama with a mixture of experts in every layer; its GGUF files say ``llama``.

Source: https://arxiv.org/abs/2401.04088. Only its Hugging Face form differs from llama.
"""

from __future__ import annotations

from typing import Any, Final

from tektra.formats.hf_config import HfConfig
from tektra.models import llama
from tektra.models.base import MAX_CONTEXT
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.experts import STACKED_EXPERTS, expert_metadata

__all__ = ["CHECKPOINT", "Config", "build"]

Config, build = llama.Config, llama.build


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    metadata = common_metadata(c, default_eps=1e-5, default_theta=1e6)
    window = c.int("sliding_window", default=0, minimum=0, maximum=MAX_CONTEXT)
    if window:
        metadata["attention.sliding_window"] = window
    experts = expert_metadata(c, count="num_local_experts", normalize=True, width=None)
    return metadata | experts


_MOE = "model.layers.{i}.block_sparse_moe"
CHECKPOINT: Final = CheckpointFormat(
    architecture="llama",
    metadata=_checkpoint_metadata,
    tensors={
        **llama.CHECKPOINT.tensors,
        f"{_MOE}.gate": "blk.{i}.ffn_gate_inp",
        f"{_MOE}.experts.{{e}}.w1": "blk.{i}.ffn_gate_exps",
        f"{_MOE}.experts.{{e}}.w2": "blk.{i}.ffn_down_exps",
        f"{_MOE}.experts.{{e}}.w3": "blk.{i}.ffn_up_exps",
        **STACKED_EXPERTS,
    },
    made=llama.CHECKPOINT.made,
)
