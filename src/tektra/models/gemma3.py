"""Gemma 3, text: gemma2 with each head of query and key normalized instead of the soft caps, five
of six layers seeing only a window, and other rotary positions in these.

Source: the Gemma 3 report, https://arxiv.org/abs/2503.19786. What files leave out is as llama.cpp
takes it. States only what differs from gemma2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.models import gemma2, llama
from tektra.models.attention_metadata import read_softcap
from tektra.models.base import Shapes
from tektra.models.checkpoint_format import AddOne, CheckpointFormat, To
from tektra.models.checkpoint_windows import kinds_of_rope, window_metadata
from tektra.models.gemma2 import build

__all__ = ["CHECKPOINT", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(gemma2.Config):
    """Configuration of a gemma3 model."""

    head_norms: ClassVar[bool] = True
    sliding_window: ClassVar[int] = 0
    sliding_period: ClassVar[int] = 6
    sliding_base: ClassVar[float | None] = 10_000.0
    sliding_scaled: ClassVar[bool] = False
    layers_of_27b: ClassVar[int] = 62

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        key = m.str("general.architecture")
        c = llama.read(cls, m, shapes)
        return replace(
            c,
            attention=replace(c.attention, scale=gemma2.score_scale(c)),
            logit_softcap=read_softcap(m, f"{key}.final_logit_softcapping"),
        )


_DEFAULTS: Final = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
"""What the first files leave to transformers."""


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("attn_logit_softcapping")
    c, sliding = kinds_of_rope(c.defaulting(_DEFAULTS))
    metadata = gemma2.checkpoint_metadata(c, default_theta=1e6)
    period = c.int("sliding_window_pattern", default=6, minimum=1, maximum=1 << 16)
    metadata |= window_metadata(c, metadata["block_count"], lambda i: (i + 1) % period != 0)
    local = c.float("rope_local_base_freq", default=1e4, minimum=2.0, maximum=1e15)
    metadata["rope.freq_base_swa"] = sliding.float(
        "rope_theta", default=local, minimum=2.0, maximum=1e15
    )
    cap = c.float("final_logit_softcapping", default=0.0, minimum=0.0, maximum=1e6)
    return metadata | {"final_logit_softcapping": cap}


CHECKPOINT: Final = CheckpointFormat(
    architecture="gemma3",
    metadata=_checkpoint_metadata,
    tensors={
        **gemma2.TENSORS,
        "model.layers.{i}.self_attn.q_norm": To("blk.{i}.attn_q_norm", AddOne()),
        "model.layers.{i}.self_attn.k_norm": To("blk.{i}.attn_k_norm", AddOne()),
    },
    tied_by_default=True,
    # Models that also see: their text is the same.
    text_config="text_config",
    prefixes=("language_model.",),
    dropped=("vision_tower.{any}", "multi_modal_projector.{any}"),
)
