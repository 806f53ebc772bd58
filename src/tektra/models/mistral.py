"""Mistral: llama, in its first versions with a window. Its GGUF files are llama's.

Source: https://arxiv.org/abs/2310.06825. States only what differs from llama.
"""

from __future__ import annotations

from typing import Any, Final

from tektra.formats.hf_config import HfConfig
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.checkpoint_windows import window_metadata
from tektra.models.llama import Config, build

__all__ = ["CHECKPOINT", "Config", "build"]


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    # transformers takes a window of 4096 where the key is missing, and none where it is null
    metadata = common_metadata(c)
    return metadata | window_metadata(
        c.defaulting({"sliding_window": 4096}), metadata["block_count"]
    )


CHECKPOINT: Final = CheckpointFormat(
    architecture="llama",
    metadata=_checkpoint_metadata,
    tensors=llama.CHECKPOINT.tensors,
    made=llama.CHECKPOINT.made,
)
