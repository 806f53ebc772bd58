"""Variants of dense decoders: the smallest models that show each option of a configuration.

Each is its config.json, and beside it the metadata that llama.cpp's converter makes of that, as
arguments of `dense_model.variant`. Needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["DENSE"]

Spec = dict[str, Any]
_LONG: Mapping[str, Any] = MappingProxyType({"num_tokens": 200, "rows": (0, 31, 64, 130, 199)})


def _variant(name: str, model_type: str, **rest: Any) -> Spec:
    return {"name": name, "model_type": model_type, **rest}


def _qwen3(name: str, **rest: Any) -> Spec:
    return _variant(
        name,
        "qwen3",
        architectures=["Qwen3ForCausalLM"],
        head_dim=rest.pop("head_dim", 32),
        hidden_act="silu",
        theta=rest.pop("theta", 1e6),
        **rest,
    )


QWEN3 = (
    _qwen3("qwen3-gqa-tied", tied=True),
    _qwen3("qwen3-mha", num_key_value_heads=4, head_dim=16, rms_norm_eps=1e-3),
    _qwen3("qwen3-bias", num_key_value_heads=1, attention_bias=True, theta=1e4),
    _qwen3(
        "qwen3-yarn",
        theta=1e4,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
        text=_LONG,
    ),
    _qwen3(
        "qwen3-window",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=12,
        max_window_layers=1,
        metadata={
            "attention.sliding_window": 12,
            "attention.sliding_window_pattern": [False, True, True],
        },
    ),
)

_FACTORS = {
    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0],
    "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0],
}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}


def _phi3(name: str, **rest: Any) -> Spec:
    rest.setdefault("sliding_window", None)
    metadata = {
        "rope.dimension_count": 16,
        "rope.scaling.original_context_length": rest["original_max_position_embeddings"],
        "attention.sliding_window": rest["sliding_window"] or 0,
        **rest.pop("metadata", {}),
    }
    return _variant(
        name,
        "phi3",
        architectures=["Phi3ForCausalLM"],
        hidden_act="silu",
        pad_token_id=0,
        metadata=metadata,
        **rest,
    )


PHI3 = (
    _phi3("phi3-mha", num_key_value_heads=4, original_max_position_embeddings=256),
    _phi3(
        "phi3-window", original_max_position_embeddings=256, sliding_window=12, rms_norm_eps=1e-3
    ),
    _phi3(
        "phi3-partial",
        original_max_position_embeddings=256,
        partial_rotary_factor=0.75,
        tied=True,
        metadata={"rope.dimension_count": 12},
    ),
    _phi3(
        "phi3-longrope-short",
        original_max_position_embeddings=64,
        rope_parameters={**_LONGROPE, **_FACTORS},
        metadata={"rope.dimension_count": 12, "rope.scaling.attn_factor": (1 + 1 / 3) ** 0.5},
        text={"context": 64},
    ),
    _phi3(
        "phi3-longrope-long",
        original_max_position_embeddings=64,
        rope_parameters={**_LONGROPE, **_FACTORS},
        metadata={"rope.dimension_count": 12, "rope.scaling.attn_factor": (1 + 1 / 3) ** 0.5},
        text=_LONG,
    ),
)


def _granite(
    name: str, embedding: float, residual: float, attention: float, logits: float, **rest: Any
) -> Spec:
    metadata = {
        "vocab_size": 259,
        "rope.dimension_count": 16,
        "attention.scale": attention,
        "embedding_scale": embedding,
        "residual_scale": residual,
        "logit_scale": logits,
        **rest.pop("metadata", {}),
    }
    return _variant(
        name,
        "granite",
        architectures=["GraniteForCausalLM"],
        hidden_act="silu",
        embedding_multiplier=embedding,
        residual_multiplier=residual,
        attention_multiplier=attention,
        logits_scaling=logits,
        metadata=metadata,
        **rest,
    )


GRANITE = (
    _granite("granite-scaled-tied", 12.0, 0.22, 0.2, 5.0, tied=True, num_hidden_layers=3),
    _granite("granite-plain", 1.0, 1.0, 0.25, 1.0, num_key_value_heads=4),
    _granite(
        "granite-bias", 6.0, 0.5, 0.3, 0.25, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2
    ),
    _granite(
        "granite-linear",
        3.0,
        0.4,
        0.25,
        2.0,
        rope_scaling={"rope_type": "linear", "factor": 4.0},
        metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        text=_LONG,
    ),
)


def _olmo(name: str, model_type: str, **rest: Any) -> Spec:
    return _variant(
        name,
        model_type,
        architecture="olmo2",
        architectures=[f"Olmo{model_type[-1]}ForCausalLM"],
        hidden_act="silu",
        pad_token_id=1,
        **rest,
    )


OLMO2 = (
    _olmo("olmo2-mha", "olmo2", num_key_value_heads=4),
    _olmo("olmo2-gqa", "olmo2", theta=5e5, rms_norm_eps=1e-3),
    _olmo("olmo2-bias-tied", "olmo2", num_key_value_heads=1, attention_bias=True, tied=True),
    _olmo(
        "olmo3-yarn",
        "olmo3",
        num_hidden_layers=5,
        sliding_window=24,
        theta=5e5,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 32,
        },
        metadata={
            "attention.sliding_window": 24,
            "attention.sliding_window_pattern": [True, True, True, False, True],
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
        },
        text=_LONG,
    ),
)


def _smollm3(name: str, **rest: Any) -> Spec:
    return _variant(
        name,
        "smollm3",
        architectures=["SmolLM3ForCausalLM"],
        hidden_act="silu",
        pad_token_id=0,
        metadata={"vocab_size": 259, "rope.dimension_count": 16, **rest.pop("metadata", {})},
        **rest,
    )


SMOLLM3 = (
    _smollm3("smollm3-tied", num_hidden_layers=5, tied=True, theta=2e6),
    _smollm3("smollm3-bias", num_hidden_layers=4, attention_bias=True, mlp_bias=True),
    _smollm3(
        "smollm3-yarn",
        num_hidden_layers=4,
        no_rope_layers=[1, 1, 1, 0],
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
        text=_LONG,
    ),
)


def _mistral(name: str, **rest: Any) -> Spec:
    return _variant(
        name,
        "mistral",
        architecture="llama",
        architectures=["MistralForCausalLM"],
        hidden_act="silu",
        metadata={"vocab_size": 259, **rest.pop("metadata", {})},
        **rest,
    )


MISTRAL = (
    _mistral("mistral-window", sliding_window=12, metadata={"attention.sliding_window": 12}),
    _mistral("mistral-head-dim", sliding_window=None, head_dim=24, theta=1e6),
)

DENSE = (*QWEN3, *PHI3, *GRANITE, *OLMO2, *SMOLLM3, *MISTRAL)
"""All of them."""
