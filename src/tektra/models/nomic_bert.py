"""Nomic BERT: BERT with rotary positions and a gated feed forward, without biases.

Source: Nussbaum et al., https://arxiv.org/abs/2402.01613. States only what differs from bert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Activation, Graph, RopeLayout, RopeSpec
from tektra.models import bert
from tektra.models.base import MAX_CONTEXT, Shapes
from tektra.models.bert_checkpoint import encoder_metadata
from tektra.models.checkpoint_config import rope_metadata
from tektra.models.checkpoint_format import CheckpointFormat
from tektra.models.encoder import STEP_CACHE, name_outputs
from tektra.models.rope_metadata import read_rope

__all__ = ["CHECKPOINT", "Config", "build"]


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
        attended = g.attention(q, k, v, layer=STEP_CACHE, spec=c.attention)
        if i == c.num_layers - 1:
            x, attended = g.select_outputs(x), g.select_outputs(attended)
        x = g.add(x, g.linear(attended, w["attn_output"]))
        x = g.layer_norm(x, w["attn_output_norm"], c.norm_eps)
        gate, up = g.linear(x, w["ffn_gate"], w["ffn_up"])
        y = g.linear(g.gated(gate, up, c.activation), w["ffn_down"])
        x = g.layer_norm(g.add(x, y), w["layer_output_norm"], c.norm_eps)
    name_outputs(g, x, dense=Activation.TANH, norm_eps=c.norm_eps)


# The Hugging Face form: transformers' own, and that of the code which came with the first models.


def _metadata(c: HfConfig) -> dict[str, Any]:
    if c.has("n_embd"):
        c = _as_transformers(c)
    c.only("hidden_act", "silu", "swish")
    return (
        encoder_metadata(c)
        | rope_metadata(c, default_theta=1000.0)
        | {
            "attention.layer_norm_epsilon": c.float(
                "layer_norm_eps", default=1e-12, minimum=1e-30, maximum=1.0
            ),
            "hidden_act": "silu",
            "tokenizer.ggml.token_type_count": c.int(
                "type_vocab_size", default=2, minimum=1, maximum=1 << 16
            ),
        }
    )


def _as_transformers(c: HfConfig) -> HfConfig:
    """The older config by the newer names; refuses what those models could be and are not."""
    for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "use_rms_norm"):
        c.only(key, False)
    c.only("activation_function", "swiglu")
    c.only("rotary_emb_fraction", 1.0, 1)
    for key in ("rotary_emb_interleaved", "causal", "parallel_block"):
        c.only(key, False)
    for key in ("rotary_emb_scale_base", "rotary_scaling_factor", "moe_every_n_layers"):
        c.only(key, 0)
    width = c.int("n_embd", minimum=1)
    return c.merged(
        {
            "num_hidden_layers": c.int("n_layer", minimum=1),
            "num_attention_heads": c.int("n_head", minimum=1),
            "hidden_size": width,
            "intermediate_size": c.int("n_inner", default=4 * width, minimum=1),
            # They were trained on fewer tokens than their table of positions once had.
            "max_position_embeddings": c.int(
                "max_trained_positions", default=2048, minimum=1, maximum=MAX_CONTEXT
            ),
            "layer_norm_eps": c.float("layer_norm_epsilon", default=1e-12, minimum=0.0),
            "rope_theta": c.float("rotary_emb_base", default=1000.0, minimum=2.0),
            "hidden_act": "silu",
        }
    )


CHECKPOINT: Final = CheckpointFormat(
    architecture="nomic-bert",
    metadata=_metadata,
    tensors={
        "embeddings.word_embeddings": "token_embd",
        "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "token_embd_norm",
        "layers.{i}.self_attn.q_proj": "blk.{i}.attn_q",
        "layers.{i}.self_attn.k_proj": "blk.{i}.attn_k",
        "layers.{i}.self_attn.v_proj": "blk.{i}.attn_v",
        "layers.{i}.self_attn.o_proj": "blk.{i}.attn_output",
        "layers.{i}.post_attention_layernorm": "blk.{i}.attn_output_norm",
        "layers.{i}.mlp.gate_proj": "blk.{i}.ffn_gate",
        "layers.{i}.mlp.up_proj": "blk.{i}.ffn_up",
        "layers.{i}.mlp.down_proj": "blk.{i}.ffn_down",
        "layers.{i}.post_mlp_layernorm": "blk.{i}.layer_output_norm",
        "emb_ln": "token_embd_norm",
        "encoder.layers.{i}.attn.Wqkv": "blk.{i}.attn_qkv",
        "encoder.layers.{i}.attn.out_proj": "blk.{i}.attn_output",
        "encoder.layers.{i}.norm1": "blk.{i}.attn_output_norm",
        "encoder.layers.{i}.mlp.fc11": "blk.{i}.ffn_up",
        "encoder.layers.{i}.mlp.fc12": "blk.{i}.ffn_gate",
        "encoder.layers.{i}.mlp.fc2": "blk.{i}.ffn_down",
        "encoder.layers.{i}.norm2": "blk.{i}.layer_output_norm",
    },
    dropped=("pooler.{any}", "cls.{any}", "embeddings.position_ids"),
    prefixes=("nomic_bert.", "bert."),
)
