"""Gemma: llama with scaled embeddings, a gated GELU, and halves rotated as pairs.

Source: the Gemma report, https://arxiv.org/abs/2403.08295. GGUF's norms have their 1 added.
States only what differs from llama.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tektra.graph import Activation, Graph, RopeLayout, Value
from tektra.models import llama

__all__ = ["Config", "build", "embed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a gemma model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    activation: ClassVar[Activation] = Activation.GELU_TANH


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    llama.head(g, c, llama.layers(g, c, embed(g, c)))


def embed(g: Graph, c: Config) -> Value:
    """The embeddings, times the root of their width."""
    return g.scale(g.embed("token_embd.weight"), math.sqrt(c.embedding_width))
