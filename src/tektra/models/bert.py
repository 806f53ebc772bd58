"""BERT and the encoders of its shape: MiniLM, BGE, E5, GTE, RoBERTa, XLM-RoBERTa...

Post-norm transformer that sees a text in both directions, with learned positions (Devlin et al.,
https://arxiv.org/abs/1810.04805; https://arxiv.org/abs/1907.11692). Names and keys are GGUF's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from tektra.errors import FormatError
from tektra.formats.gguf_metadata import Metadata
from tektra.graph import Activation, EmbedBy, Graph, LayerWeights, Value
from tektra.models.base import (
    MAX_CONTEXT,
    MAX_WIDTH,
    Shapes,
    check_width,
    read_num_layers,
    read_vocab_size,
    uniform_int,
)
from tektra.models.encoder import (
    STEP_CACHE,
    EncoderConfig,
    activation_named,
    name_outputs,
    read_attention,
    read_num_labels,
)

__all__ = ["Config", "build", "embeddings", "query_key_value", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(EncoderConfig):
    """Configuration of a BERT-shaped model.

    Attributes:
        activation: of the feed forward.
    """

    activation: Activation = Activation.GELU

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        return cls(**read(m, shapes))


def read(m: Metadata, shapes: Shapes, *, activation: str = "gelu") -> dict[str, Any]:
    """The fields of `Config`; ``activation`` is that of files that name none."""
    key = architecture = m.str("general.architecture")
    num_layers = read_num_layers(m, shapes, f"{key}.block_count")
    width = m.int(f"{key}.embedding_length", minimum=1, maximum=MAX_WIDTH)
    check_width(shapes, "token_embd.weight", 1, width, f"{key}.embedding_length")
    ffn_width = uniform_int(m, f"{key}.feed_forward_length", num_layers, maximum=MAX_WIDTH)
    check_width(shapes, "blk.0.ffn_up.weight", 0, ffn_width, f"{key}.feed_forward_length")
    return {
        "architecture": architecture,
        "num_layers": num_layers,
        "context_length": _read_context(m, shapes, f"{key}.context_length"),
        "vocab_size": read_vocab_size(m, shapes, f"{key}.vocab_size"),
        "embedding_width": width,
        "norm_eps": m.float(f"{key}.attention.layer_norm_epsilon", minimum=1e-30, maximum=1.0),
        "attention": read_attention(
            m, shapes, architecture=architecture, num_layers=num_layers, width=width
        ),
        "num_segments": _read_segments(m, shapes),
        "num_labels": read_num_labels(shapes, width),
        "activation": activation_named(
            m.str(f"{key}.hidden_act", default=activation), f"{key}.hidden_act"
        ),
    }


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.add(embeddings(g), g.embed("position_embd.weight", EmbedBy.POSITION))
    x = g.layer_norm(x, "token_embd_norm", c.norm_eps)
    for i in range(c.num_layers):
        w = g.layer(i)
        q, k, v = query_key_value(g, c.embedding_width, x, w)
        attended = g.attention(q, k, v, layer=STEP_CACHE, spec=c.attention)
        if i == c.num_layers - 1:
            x, attended = g.select_outputs(x), g.select_outputs(attended)
        x = g.add(x, g.linear(attended, w["attn_output"]))
        x = g.layer_norm(x, w["attn_output_norm"], c.norm_eps)
        x = g.layer_norm(g.add(x, _feed_forward(g, c, x, w)), w["layer_output_norm"], c.norm_eps)
    name_outputs(g, x, dense=Activation.TANH, norm_eps=c.norm_eps)


def embeddings(g: Graph) -> Value:
    """Embeddings of the tokens, with that of their segment where the model has one."""
    x = g.embed("token_embd.weight")
    if g.has("token_types.weight"):
        x = g.add(x, g.embed("token_types.weight", EmbedBy.SEGMENT))
    return x


def query_key_value(g: Graph, width: int, x: Value, w: LayerWeights) -> tuple[Value, ...]:
    """The three, from three matrices or from one."""
    if g.has(w["attn_qkv.weight"]):
        return g.split(g.linear(x, w["attn_qkv"]), width, width, width)
    return g.linear(x, w["attn_q"], w["attn_k"], w["attn_v"])


def _feed_forward(g: Graph, c: Config, x: Value, w: LayerWeights) -> Value:
    return g.linear(g.activate(g.linear(x, w["ffn_up"]), c.activation), w["ffn_down"])


def _read_context(m: Metadata, shapes: Shapes, key: str) -> int:
    """The context, for every position of which there has to be an embedding."""
    context = m.int(key, minimum=1, maximum=MAX_CONTEXT)
    positions = shapes.get("position_embd.weight", (context,))[0]
    if context > positions:
        raise FormatError(
            f"the metadata key {key!r} is {context}, but 'position_embd.weight' has "
            f"{positions} positions"
        )
    return context


def _read_segments(m: Metadata, shapes: Shapes) -> int:
    """Rows of the table of segments; the metadata may repeat the number, but not another one."""
    key = "tokenizer.ggml.token_type_count"
    rows = shapes.get("token_types.weight", (1,))[0]
    named = m.int(key, default=rows, minimum=0, maximum=1 << 16)
    if "token_types.weight" in shapes and named != rows:
        raise FormatError(
            f"the metadata key {key!r} is {named}, but 'token_types.weight' has {rows} rows"
        )
    return rows
