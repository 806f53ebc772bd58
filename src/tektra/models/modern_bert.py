"""ModernBERT: pre-norm, rotary, gated, and most of its layers see only what is near.

Source: Warner et al., https://arxiv.org/abs/2412.13663.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Activation, AttentionSpec, Graph, LayerWeights, RopeLayout, RopeSpec, Value
from tektra.models.base import (
    MAX_CONTEXT,
    MAX_LAYERS,
    MAX_WIDTH,
    Shapes,
    check_width,
    read_num_layers,
    read_vocab_size,
    uniform_int,
)
from tektra.models.bert import query_key_value
from tektra.models.bert_checkpoint import encoder_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.encoder import (
    STEP_CACHE,
    EncoderConfig,
    activation_named,
    name_outputs,
    read_attention,
    read_num_labels,
)
from tektra.models.rope_metadata import read_rope

__all__ = ["CHECKPOINT", "CLASSIFIER", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(EncoderConfig):
    """Configuration of a ModernBERT.

    Attributes:
        local: attention of the layers that see only what is near.
        rope, local_rope: rotary positions of the layers that see all, and of the others.
        is_local: which layers are which.
        activation: of the feed forward.
        ffn_width: width of the feed forward's gate.
    """

    local: AttentionSpec
    rope: RopeSpec
    local_rope: RopeSpec
    is_local: tuple[bool, ...]
    activation: Activation
    ffn_width: int

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        key = architecture = m.str("general.architecture")
        num_layers = read_num_layers(m, shapes, f"{key}.block_count")
        width = m.int(f"{key}.embedding_length", minimum=1, maximum=MAX_WIDTH)
        check_width(shapes, "token_embd.weight", 1, width, f"{key}.embedding_length")
        ffn_width = uniform_int(m, f"{key}.feed_forward_length", num_layers, maximum=MAX_WIDTH)
        check_width(shapes, "blk.0.ffn_up.weight", 0, 2 * ffn_width, f"{key}.feed_forward_length")
        context_length = m.int(f"{key}.context_length", minimum=1, maximum=MAX_CONTEXT)
        attention = read_attention(
            m, shapes, architecture=architecture, num_layers=num_layers, width=width
        )
        rope = read_rope(
            m,
            shapes,
            architecture=architecture,
            head_dim=attention.head_dim,
            context_length=context_length,
            layout=RopeLayout.HALF,
        )
        local_base = m.float(
            f"{key}.rope.freq_base_swa", default=10_000.0, minimum=2.0, maximum=1e15
        )
        # The window has so many positions, half of them on each side; none: every layer sees all.
        window = m.int(f"{key}.attention.sliding_window", default=0, minimum=0, maximum=MAX_CONTEXT)
        pattern = _read_pattern(m, f"{key}.attention.sliding_window_pattern", num_layers)
        return cls(
            architecture=architecture,
            num_layers=num_layers,
            context_length=context_length,
            vocab_size=read_vocab_size(m, shapes, f"{key}.vocab_size"),
            embedding_width=width,
            norm_eps=m.float(f"{key}.attention.layer_norm_epsilon", minimum=1e-30, maximum=1.0),
            attention=attention,
            local=replace(attention, window=window // 2 + 1),
            rope=rope,
            local_rope=replace(rope, base=local_base),
            is_local=pattern if window else (False,) * num_layers,
            activation=activation_named(
                m.str(f"{key}.hidden_act", default="gelu"), f"{key}.hidden_act"
            ),
            ffn_width=ffn_width,
            num_labels=read_num_labels(shapes, width),
        )


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.layer_norm(g.embed("token_embd.weight"), "token_embd_norm", c.norm_eps)
    for i, local in enumerate(c.is_local):
        w = g.layer(i)
        # What comes out of the embeddings is normalized already.
        h = g.layer_norm(x, w["attn_norm"], c.norm_eps) if g.has(w["attn_norm.weight"]) else x
        q, k, v = query_key_value(g, c.embedding_width, h, w)
        rope = c.local_rope if local else c.rope
        q, k = g.rope(q, rope), g.rope(k, rope)
        attended = g.attention(q, k, v, layer=STEP_CACHE, spec=c.local if local else c.attention)
        if i == c.num_layers - 1:
            x, attended = g.select_outputs(x), g.select_outputs(attended)
        x = g.add(x, g.linear(attended, w["attn_output"]))
        x = g.add(x, _feed_forward(g, c, x, w))
    x = g.layer_norm(x, "output_norm", c.norm_eps)
    name_outputs(g, x, dense=Activation.GELU, norm_eps=c.norm_eps)


def _feed_forward(g: Graph, c: Config, x: Value, w: LayerWeights) -> Value:
    h = g.layer_norm(x, w["ffn_norm"], c.norm_eps)
    gate, up = g.split(g.linear(h, w["ffn_up"]), c.ffn_width, c.ffn_width)
    return g.linear(g.gated(gate, up, c.activation), w["ffn_down"])


def _read_pattern(m: Metadata, key: str, num_layers: int) -> tuple[bool, ...]:
    """Which layers see only what is near: all but every n-th, from the first on; or a list."""
    if m.is_list(key):
        return tuple(m.bool_list(key, length=num_layers))
    period = m.int(key, default=3, minimum=1, maximum=MAX_LAYERS)
    return tuple(i % period != 0 for i in range(num_layers))


# The Hugging Face form


def _metadata(c: HfConfig) -> dict[str, Any]:
    layers = c.int("num_hidden_layers", minimum=1, maximum=MAX_LAYERS)
    c.only("attention_layer_norm", False)
    metadata = encoder_metadata(c) | {
        "attention.layer_norm_epsilon": c.float(
            "norm_eps", default=1e-5, minimum=1e-30, maximum=1.0
        ),
        "attention.sliding_window": c.int(
            "local_attention", default=128, minimum=1, maximum=MAX_CONTEXT
        ),
        "rope.scaling.type": "none",
        "hidden_act": c.str("hidden_activation", default="gelu"),
        **_rope_bases(c),
    }
    types = c.str_list("layer_types", default=None, length=layers)
    if types is None:
        metadata["attention.sliding_window_pattern"] = c.int(
            "global_attn_every_n_layers", default=3, minimum=1, maximum=MAX_LAYERS
        )
    else:
        metadata["attention.sliding_window_pattern"] = [t == "sliding_attention" for t in types]
        for t in types:
            HfConfig({"layer_types": t}, name="config.json").only(
                "layer_types", "sliding_attention", "full_attention"
            )
    return metadata


def _rope_bases(c: HfConfig) -> dict[str, float]:
    """Rotary bases of the two kinds of layers, wherever a version of transformers has put them."""
    c.only("rope_scaling")
    parameters = c.sub("rope_parameters") or HfConfig({})
    bases: dict[str, float] = {}
    for key, kind, older, default in (
        ("rope.freq_base", "full_attention", "global_rope_theta", 160_000.0),
        ("rope.freq_base_swa", "sliding_attention", "local_rope_theta", 10_000.0),
    ):
        rope = parameters.sub(kind) or HfConfig({})
        rope.only("rope_type", "default")
        stated = c.float(older, default=default, minimum=2.0, maximum=1e15)
        bases[key] = rope.float("rope_theta", default=stated, minimum=2.0, maximum=1e15)
    return bases


def _classifier_metadata(c: HfConfig) -> dict[str, Any]:
    # The mean of all rows would have to be known before the head.
    c.only("classifier_pooling", "cls")
    c.only("classifier_activation", "gelu")
    return _metadata(c)


CHECKPOINT: Final = CheckpointFormat(
    architecture="modern-bert",
    metadata=_metadata,
    tensors={
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "layers.{i}.attn_norm": "blk.{i}.attn_norm",
        "layers.{i}.attn.Wqkv": "blk.{i}.attn_qkv",
        "layers.{i}.attn.Wo": "blk.{i}.attn_output",
        "layers.{i}.mlp_norm": "blk.{i}.ffn_norm",
        "layers.{i}.mlp.Wi": "blk.{i}.ffn_up",
        "layers.{i}.mlp.Wo": "blk.{i}.ffn_down",
        "final_norm": "output_norm",
    },
    dropped=("head.{any}", "decoder.{any}"),
    prefixes=("model.",),
)

CLASSIFIER: Final = replace(
    CHECKPOINT,
    metadata=_classifier_metadata,
    tensors={
        **CHECKPOINT.tensors,
        "head.dense": "cls",
        "head.norm": "cls.norm",
        "classifier": "cls.output",
    },
    dropped=(),
)
