"""Gemma 3, text: gemma2 with each head of query and key normalized instead of the soft caps, five
of six layers seeing only a window, and other rotary positions in these.

Source: the Gemma 3 report, https://arxiv.org/abs/2503.19786. What files leave out is as llama.cpp
takes it. States only what differs from gemma2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.models import gemma2, llama
from tektra.models.attention_metadata import read_softcap
from tektra.models.base import Shapes
from tektra.models.gemma2 import build

__all__ = ["Config", "build"]


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
            # Where no layer has a window, all have the rotary positions of those without.
            sliding=c.sliding if c.attention.window else (False,) * c.num_layers,
            logit_softcap=read_softcap(m, f"{key}.final_logit_softcapping"),
        )
