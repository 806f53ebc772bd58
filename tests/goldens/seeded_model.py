"""Small models with weights from a seed: made alike by the golden script and by the tests.

Holds the variants, their weights by the names and in the layout of transformers, and the way from
there to GGUF as llama.cpp's converter goes it. Needs NumPy alone, and nothing of Tektra, so that a
fault of ours cannot be in both halves of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.goldens.seeds import F32, generator, neighbours_rotated, seal, text

__all__ = [
    "VARIANTS",
    "Variant",
    "checkpoint_config",
    "checkpoint_weights",
    "fingerprint",
    "gguf_metadata",
    "gguf_weights",
    "token_ids",
]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One small model. ``rope`` is what transformers calls ``rope_parameters``.

    Attributes:
        num_tokens: length of the text whose logits are compared.
        rows: which of its positions are kept in the golden.
    """

    name: str
    architecture: str
    hidden: int = 64
    ffn: int = 160
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    layers: int = 2
    vocab: int = 259
    tied: bool = False
    eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    context: int = 256
    rope: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({"rope_type": "default", "rope_theta": 10000.0})
    )
    num_tokens: int = 48
    rows: tuple[int, ...] = (0, 1, 17, 47)

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.architecture == "qwen2"


def _rope(kind: str, theta: float = 10000.0, **parameters: float) -> Mapping[str, Any]:
    return MappingProxyType({"rope_type": kind, "rope_theta": theta, **parameters})


_LONG: Mapping[str, Any] = MappingProxyType({"num_tokens": 200, "rows": (0, 31, 64, 130, 199)})
_YARN = _rope("yarn", factor=8.0, original_max_position_embeddings=32)

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        v.name: v
        for v in (
            Variant(name="llama-mha-tied", architecture="llama", kv_heads=4, tied=True),
            Variant(name="llama-gqa2", architecture="llama", kv_heads=2, eps=1e-5),
            Variant(name="llama-mqa", architecture="llama", kv_heads=1),
            Variant(
                name="llama-bias",
                architecture="llama",
                attention_bias=True,
                mlp_bias=True,
                eps=1e-3,
            ),
            Variant(name="llama-head-dim", architecture="llama", heads=2, kv_heads=1, head_dim=48),
            Variant(name="llama-odd", architecture="llama", hidden=96, heads=6, kv_heads=3, ffn=88),
            Variant(name="llama-theta", architecture="llama", rope=_rope("default", 5e5), **_LONG),
            Variant(
                name="llama-linear", architecture="llama", rope=_rope("linear", factor=4.0), **_LONG
            ),
            Variant(name="llama-yarn", architecture="llama", rope=_YARN, **_LONG),
            Variant(
                name="llama-yarn-tuned",
                architecture="llama",
                hidden=96,
                heads=2,
                kv_heads=1,
                rope=_rope(
                    "yarn",
                    factor=4.0,
                    original_max_position_embeddings=128,
                    beta_fast=4.0,
                    beta_slow=0.5,
                    attention_factor=0.7,
                ),
                **_LONG,
            ),
            Variant(
                name="llama-llama3",
                architecture="llama",
                hidden=96,
                heads=2,
                kv_heads=1,
                rope=_rope(
                    "llama3",
                    5e5,
                    factor=8.0,
                    low_freq_factor=1.0,
                    high_freq_factor=4.0,
                    original_max_position_embeddings=64,
                ),
                **_LONG,
            ),
            Variant(name="qwen2-gqa-tied", architecture="qwen2", tied=True),
            Variant(name="qwen2-mha", architecture="qwen2", kv_heads=4, rope=_rope("default", 1e6)),
            Variant(name="qwen2-odd", architecture="qwen2", hidden=96, heads=3, kv_heads=1, ffn=88),
            Variant(
                name="qwen2-linear", architecture="qwen2", rope=_rope("linear", factor=2.5), **_LONG
            ),
            Variant(name="qwen2-yarn", architecture="qwen2", rope=_YARN, tied=True, **_LONG),
        )
    }
)


def token_ids(v: Variant) -> NDArray[np.int32]:
    """The text of the variant: int32 [num_tokens]."""
    return text(v.name, v.num_tokens, v.vocab)


def checkpoint_weights(v: Variant) -> dict[str, F32]:
    """Weights by the names that transformers has, in its layout.

    The spread is such that attention is neither flat nor one-hot, so that each part of the model
    shows in the logits.
    """
    rng = generator(v.name)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> F32:
        spread = gain / math.sqrt(columns)
        return (rng.standard_normal((rows, columns)) * spread).astype(np.float32)

    def vector(size: int, mean: float = 0.0) -> F32:
        return (rng.standard_normal(size) * 0.2 + mean).astype(np.float32)

    q_rows, kv_rows = v.heads * v.width_of_head, v.kv_heads * v.width_of_head
    weights = {"model.embed_tokens.weight": matrix(v.vocab, v.hidden, gain=4.0)}
    for i in range(v.layers):
        layer = f"model.layers.{i}"
        weights[f"{layer}.input_layernorm.weight"] = vector(v.hidden, mean=1.0)
        for part, rows in (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)):
            gain = 1.0 if part == "v_proj" else 1.5
            weights[f"{layer}.self_attn.{part}.weight"] = matrix(rows, v.hidden, gain)
            if v.qkv_bias:
                weights[f"{layer}.self_attn.{part}.bias"] = vector(rows)
        weights[f"{layer}.self_attn.o_proj.weight"] = matrix(v.hidden, q_rows)
        if v.attention_bias:
            weights[f"{layer}.self_attn.o_proj.bias"] = vector(v.hidden)
        weights[f"{layer}.post_attention_layernorm.weight"] = vector(v.hidden, mean=1.0)
        for part, rows, columns in (
            ("gate_proj", v.ffn, v.hidden),
            ("up_proj", v.ffn, v.hidden),
            ("down_proj", v.hidden, v.ffn),
        ):
            weights[f"{layer}.mlp.{part}.weight"] = matrix(rows, columns)
            if v.mlp_bias:
                weights[f"{layer}.mlp.{part}.bias"] = vector(rows)
    weights["model.norm.weight"] = vector(v.hidden, mean=1.0)
    if not v.tied:
        weights["lm_head.weight"] = matrix(v.vocab, v.hidden)
    return weights


def fingerprint(v: Variant) -> int:
    """Checksum of text and weights: tells whether the seed still makes what it made."""
    return seal([token_ids(v), *checkpoint_weights(v).values()])


_GLOBAL_NAMES = MappingProxyType(
    {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
)
_LAYER_NAMES = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)


def gguf_weights(v: Variant) -> dict[str, F32]:
    """The same weights as a GGUF converter writes them."""
    weights: dict[str, F32] = {}
    for name, array in checkpoint_weights(v).items():
        stem, kind = name.rsplit(".", 1)
        if stem in _GLOBAL_NAMES:
            weights[f"{_GLOBAL_NAMES[stem]}.{kind}"] = array
            continue
        _, _, layer, part = stem.split(".", 3)
        if v.architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = neighbours_rotated(array, v.heads if part == "self_attn.q_proj" else v.kv_heads)
        weights[f"blk.{layer}.{_LAYER_NAMES[part]}.{kind}"] = array
    if v.rope["rope_type"] == "llama3":
        weights["rope_freqs.weight"] = _llama3_factors(v)
    return weights


def _llama3_factors(v: Variant) -> F32:
    """What each frequency is divided by (Llama 3.1 model card, "RoPE scaling")."""
    rope, dim = v.rope, v.width_of_head
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        original = rope["original_max_position_embeddings"]
        low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wavelength - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def gguf_metadata(v: Variant) -> dict[str, Any]:
    """Metadata as a GGUF converter writes it, without a tokenizer."""
    a = v.architecture
    metadata: dict[str, Any] = {
        "general.architecture": a,
        f"{a}.block_count": v.layers,
        f"{a}.context_length": v.context,
        f"{a}.embedding_length": v.hidden,
        f"{a}.feed_forward_length": v.ffn,
        f"{a}.attention.head_count": v.heads,
        f"{a}.attention.head_count_kv": v.kv_heads,
        f"{a}.attention.layer_norm_rms_epsilon": v.eps,
        f"{a}.rope.freq_base": v.rope["rope_theta"],
    }
    if a == "llama":
        metadata[f"{a}.vocab_size"] = v.vocab
        metadata[f"{a}.rope.dimension_count"] = v.width_of_head
    if v.head_dim is not None:
        metadata[f"{a}.attention.key_length"] = v.head_dim
        metadata[f"{a}.attention.value_length"] = v.head_dim
    if v.rope["rope_type"] in ("linear", "yarn"):
        metadata[f"{a}.rope.scaling.type"] = v.rope["rope_type"]
        metadata[f"{a}.rope.scaling.factor"] = v.rope["factor"]
    for theirs, ours in (
        ("original_max_position_embeddings", "original_context_length"),
        ("attention_factor", "yarn_attn_factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        if v.rope["rope_type"] == "yarn" and theirs in v.rope:
            metadata[f"{a}.rope.scaling.{ours}"] = v.rope[theirs]
    return metadata


def checkpoint_config(v: Variant) -> dict[str, Any]:
    """config.json as transformers writes it (5.0 and later)."""
    config: dict[str, Any] = {
        "architectures": [
            {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[v.architecture]
        ],
        "model_type": v.architecture,
        "hidden_size": v.hidden,
        "intermediate_size": v.ffn,
        "num_hidden_layers": v.layers,
        "num_attention_heads": v.heads,
        "num_key_value_heads": v.kv_heads,
        "vocab_size": v.vocab,
        "max_position_embeddings": v.context,
        "rms_norm_eps": v.eps,
        "hidden_act": "silu",
        "tie_word_embeddings": v.tied,
        "rope_parameters": dict(v.rope),
    }
    if v.head_dim is not None:
        config["head_dim"] = v.head_dim
    if v.architecture == "llama":
        config |= {"attention_bias": v.attention_bias, "mlp_bias": v.mlp_bias}
    return config
