"""Qwen3: llama with each head of query and key normalized, and halves rotated as pairs.

Source: the Qwen3 report, https://arxiv.org/abs/2505.09388. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tektra.graph import RopeLayout
from tektra.models import llama
from tektra.models.llama import build

__all__ = ["Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a qwen3 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    head_norms: ClassVar[bool] = True
