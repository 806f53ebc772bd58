"""Qwen2 and Qwen2.5: llama with biases on query, key and value, and halves rotated as pairs.

Source: the Qwen2 report, https://arxiv.org/abs/2407.10671. States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tektra.graph import Graph, RopeLayout
from tektra.models import llama

__all__ = ["Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a qwen2 model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF


def build(g: Graph, c: Config) -> None:
    """Draws the model; each of query, key and value has to have its bias."""
    for i in range(c.num_layers):
        for name in ("attn_q.bias", "attn_k.bias", "attn_v.bias"):
            g.shape(g.layer(i)[name])
    llama.build(g, c)
