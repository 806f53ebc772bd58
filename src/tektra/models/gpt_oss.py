"""gpt-oss: a mixture of experts with biases everywhere, attention sinks, and a window in every
other layer (model card, https://arxiv.org/abs/2508.10925).

Its experts multiply clamped gates (`ClampedGate`). States only what differs from llama.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

from tektra.errors import UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Activation, AttentionSpec, ClampedGate, RopeLayout
from tektra.models import llama
from tektra.models.base import MAX_CONTEXT, MAX_WIDTH, Shapes
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat, Part, To, Transpose
from tektra.models.experts import expert_metadata
from tektra.models.llama import build

__all__ = ["CHECKPOINT", "Config", "build"]

_GATE = ClampedGate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a gpt-oss model."""

    rope_layout: ClassVar[RopeLayout] = RopeLayout.HALF
    sliding_window: ClassVar[int] = 128
    sliding_period: ClassVar[int] = 2
    ffn_norm: ClassVar[str] = "post_attention_norm"
    expert_function: ClassVar[Activation | ClampedGate] = _GATE

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        config = llama.read(cls, m, shapes)
        # OpenAI's YaRN blends between fractions of pairs.
        truncate = m.bool(f"{config.architecture}.rope.scaling.yarn_truncate", default=False)
        return replace(
            config,
            rope=replace(config.rope, truncate=truncate),
            sliding_rope=replace(config.sliding_rope, truncate=truncate),
        )

    def attention_of(self, layer: int) -> AttentionSpec:
        """The attention of one layer, with its sinks."""
        window = self.attention.window if self.sliding[layer] else None
        return replace(self.attention, window=window, sinks=f"blk.{layer}.attn_sinks.weight")


# The Hugging Face form

_KINDS: Final = {"sliding_attention": True, "full_attention": False}
_ROPE: Final = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What a config.json without rotary settings means."""


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu")
    c.only("attention_bias", True)
    c.only("swiglu_alpha", _GATE.alpha)
    c.only("swiglu_limit", _GATE.limit)
    if c.sub("rope_parameters") is None and c.sub("rope_scaling") is None:
        c = c.merged({"rope_scaling": _ROPE})
    metadata = common_metadata(c, default_eps=1e-5, default_theta=150_000.0)
    metadata.setdefault("rope.scaling.yarn_truncate", True)  # as transformers takes it
    if "attention.key_length" not in metadata:
        metadata["attention.key_length"] = metadata["attention.value_length"] = 64
        metadata["rope.dimension_count"] = 64
    metadata["attention.sliding_window"] = c.int(
        "sliding_window", default=128, minimum=1, maximum=MAX_CONTEXT
    )
    if c.has("layer_types"):
        kinds = c.str_list("layer_types", length=metadata["block_count"])
        for kind in kinds:
            if kind not in _KINDS:
                raise UnsupportedModelError(
                    f"config.json: layers of type {kind[:64]!r} (layer_types) are not supported"
                )
        metadata["attention.sliding_window_pattern"] = [_KINDS[kind] for kind in kinds]
    experts = expert_metadata(c, count="num_local_experts", normalize=True, width=None)
    width = c.int("intermediate_size", minimum=1, maximum=MAX_WIDTH)
    return metadata | experts | {"expert_feed_forward_length": width}


_MLP = "model.layers.{i}.mlp"
CHECKPOINT: Final = CheckpointFormat(
    architecture="gpt-oss",
    metadata=_checkpoint_metadata,
    tensors={
        **llama.TENSORS,
        "model.layers.{i}.post_attention_layernorm": "blk.{i}.post_attention_norm",
        "model.layers.{i}.self_attn.sinks": "blk.{i}.attn_sinks.weight",
        f"{_MLP}.router": "blk.{i}.ffn_gate_inp",
        # Rows of gate and up take turns. Matrices of BF16 lie across, those of MXFP4 do not.
        f"{_MLP}.experts.gate_up_proj": (
            To("blk.{i}.ffn_gate_exps.weight", Transpose(), Part(0, 2, interleaved=True)),
            To("blk.{i}.ffn_up_exps.weight", Transpose(), Part(1, 2, interleaved=True)),
        ),
        f"{_MLP}.experts.down_proj": To("blk.{i}.ffn_down_exps.weight", Transpose()),
        f"{_MLP}.experts.gate_up_proj_blocks": (
            To("blk.{i}.ffn_gate_exps.weight", Part(0, 2, interleaved=True)),
            To("blk.{i}.ffn_up_exps.weight", Part(1, 2, interleaved=True)),
        ),
        f"{_MLP}.experts.down_proj_blocks": "blk.{i}.ffn_down_exps.weight",
        f"{_MLP}.experts.gate_up_proj_bias": (
            To(
                "blk.{i}.ffn_gate_exps.bias",
                Transpose(),
                Part(0, 2, interleaved=True),
                Transpose(),
            ),
            To(
                "blk.{i}.ffn_up_exps.bias",
                Transpose(),
                Part(1, 2, interleaved=True),
                Transpose(),
            ),
        ),
        f"{_MLP}.experts.down_proj_bias": "blk.{i}.ffn_down_exps.bias",
    },
)
