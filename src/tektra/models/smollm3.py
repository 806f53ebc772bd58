"""SmolLM3: llama in which every fourth layer has no rotary positions.

Source: https://huggingface.co/blog/smollm3, and NoPE, https://arxiv.org/abs/2501.18795. States only
what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tektra.errors import UnsupportedModelError
from tektra.formats.hf_config import HfConfig
from tektra.graph import RopeSpec
from tektra.models import llama
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.llama import build

__all__ = ["CHECKPOINT", "Config", "build"]

_PERIOD: Final = 4
"""GGUF files do not say it: there is one such model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a smollm3 model."""

    def rope_of(self, layer: int) -> RopeSpec | None:
        return self.rope if (layer + 1) % _PERIOD else None


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    c.only("use_sliding_window", False)
    metadata = common_metadata(c, default_theta=2e6)
    c.only("no_rope_layer_interval", _PERIOD)
    usual = [int((i + 1) % _PERIOD != 0) for i in range(metadata["block_count"])]
    with_rope = c.int_list("no_rope_layers", default=usual, minimum=0, maximum=1)
    if with_rope[: len(usual)] != usual:
        raise UnsupportedModelError(
            "config.json: 'no_rope_layers' has other layers without rotary positions than every "
            "fourth, which is not supported"
        )
    return metadata


CHECKPOINT: Final = CheckpointFormat(
    architecture="smollm3",
    metadata=_checkpoint_metadata,
    tensors=llama.CHECKPOINT.tensors,
    made=llama.CHECKPOINT.made,
    tied_by_default=True,
)
