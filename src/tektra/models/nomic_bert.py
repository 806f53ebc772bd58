"""Nomic BERT: BERT with rotary positions and a gated feed forward, without biases.

Source: Nussbaum et al., https://arxiv.org/abs/2402.01613. States only what differs from bert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tektra.formats.gguf_metadata import Metadata
from tektra.graph import Activation, Graph, RopeLayout, RopeSpec
from tektra.models import bert
from tektra.models.base import Shapes
from tektra.models.encoder import name_outputs
from tektra.models.rope_metadata import read_rope

__all__ = ["Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(bert.Config):
    """Configuration of a Nomic BERT.

    Attributes:
        rope: rotary positions.
    """

    rope: RopeSpec

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        key = m.str("general.architecture")
        fields = bert.read(m, shapes, activation="silu")
        rope = read_rope(
            m,
            shapes,
            architecture=key,
            head_dim=fields["attention"].head_dim,
            context_length=fields["context_length"],
            layout=RopeLayout.HALF,
        )
        return cls(**fields, rope=rope)


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.layer_norm(bert.embeddings(g), "token_embd_norm", c.norm_eps)
    for i in range(c.num_layers):
        w = g.layer(i)
        q, k, v = bert.query_key_value(g, c.embedding_width, x, w)
        q, k = g.rope(q, c.rope), g.rope(k, c.rope)
        attended = g.attention(q, k, v, layer=i, spec=c.attention)
        if i == c.num_layers - 1:
            x, attended = g.select_outputs(x), g.select_outputs(attended)
        x = g.add(x, g.linear(attended, w["attn_output"]))
        x = g.layer_norm(x, w["attn_output_norm"], c.norm_eps)
        gate, up = g.linear(x, w["ffn_gate"], w["ffn_up"])
        y = g.linear(g.gated(gate, up, c.activation), w["ffn_down"])
        x = g.layer_norm(g.add(x, y), w["layer_output_norm"], c.norm_eps)
    name_outputs(g, x, dense=Activation.TANH, norm_eps=c.norm_eps)
