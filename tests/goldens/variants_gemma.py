"""Variants of Gemma 1 to 3: the smallest models that show each option of a configuration.

Each is its config.json, and beside it the metadata that llama.cpp's converter makes of that, as
arguments of `dense_model.variant`. Needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["GEMMAS"]

Spec = dict[str, Any]
_LONG: Mapping[str, Any] = MappingProxyType({"num_tokens": 200, "rows": (0, 31, 64, 130, 199)})


def _variant(name: str, model_type: str, **rest: Any) -> Spec:
    return {"name": name, "model_type": model_type, **rest}


def _layer_types(*sliding: bool) -> list[str]:
    return ["sliding_attention" if s else "full_attention" for s in sliding]


def _gemma3(name: str, *, head_dim: int = 32, scalar: int = 32, **rest: Any) -> Spec:
    rest.setdefault("tied", True)
    rest.setdefault("theta", 1e6)
    metadata = dict(rest.pop("metadata", {}))
    if "sliding_window" in rest:
        metadata["attention.sliding_window"] = rest["sliding_window"]
    return _variant(
        name,
        "gemma3_text",
        architecture="gemma3",
        architectures=["Gemma3ForCausalLM"],
        head_dim=head_dim,
        query_pre_attn_scalar=scalar,
        hidden_activation="gelu_pytorch_tanh",
        rope_local_base_freq=rest.pop("local", 10000.0),
        metadata=metadata,
        **rest,
    )


GEMMA3 = (
    _gemma3("gemma3-tied", num_hidden_layers=7, sliding_window=16),
    # No layer has a window: converters then write none.
    _gemma3("gemma3-no-window", sliding_window_pattern=1, theta=2e4, **{"num_key_value_heads": 4}),
    _gemma3(
        "gemma3-linear",
        num_hidden_layers=6,
        sliding_window=24,
        num_key_value_heads=1,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        text=_LONG,
    ),
    _gemma3(
        "gemma3-other",
        head_dim=48,
        scalar=20,
        tied=False,
        num_hidden_layers=4,
        sliding_window=8,
        attention_bias=True,
        local=5e3,
        layer_types=_layer_types(False, True, True, False),
        final_logit_softcapping=4.0,
        rms_norm_eps=1e-3,
        metadata={
            "attention.scale": 20**-0.5,
            "attention.sliding_window_pattern": [False, True, True, False],
            "rope.freq_base_swa": 5e3,
            "final_logit_softcapping": 4.0,
        },
    ),
)


def _gemma2(
    name: str, *, scalar: int = 32, attention_cap: float | None, cap: float | None, **rest: Any
) -> Spec:
    metadata = {
        "attn_logit_softcapping": attention_cap or 0.0,
        "final_logit_softcapping": cap or 0.0,
        "attention.sliding_window": rest["sliding_window"],
        **rest.pop("metadata", {}),
    }
    rest.setdefault("tied", True)
    return _variant(
        name,
        "gemma2",
        architectures=["Gemma2ForCausalLM"],
        head_dim=rest.pop("head_dim", 32),
        query_pre_attn_scalar=scalar,
        hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=attention_cap,
        final_logit_softcapping=cap,
        metadata=metadata,
        **rest,
    )


GEMMA2 = (
    _gemma2("gemma2-capped", attention_cap=2.0, cap=6.0, num_hidden_layers=3, sliding_window=16),
    _gemma2("gemma2-defaults", attention_cap=50.0, cap=30.0, sliding_window=4096),
    _gemma2(
        "gemma2-other",
        attention_cap=None,
        cap=None,
        scalar=16,
        num_hidden_layers=3,
        num_key_value_heads=4,
        sliding_window=8,
        attention_bias=True,
        tied=False,
        layer_types=_layer_types(True, True, False),
        theta=500.0,
        metadata={
            "attention.scale": 0.25,
            "attention.sliding_window_pattern": [True, True, False],
        },
    ),
)


def _gemma(name: str, **rest: Any) -> Spec:
    return _variant(
        name,
        "gemma",
        architectures=["GemmaForCausalLM"],
        head_dim=rest.pop("head_dim", 32),
        hidden_act=rest.pop("hidden_act", "gelu_pytorch_tanh"),
        **rest,
    )


GEMMA = (
    _gemma("gemma-mqa-tied", num_key_value_heads=1, tied=True),
    # The official files say "gelu" and mean its approximation.
    _gemma("gemma-legacy", num_key_value_heads=4, head_dim=16, tied=True, hidden_act="gelu"),
    _gemma("gemma-other", attention_bias=True, tied=False, theta=500.0, rms_norm_eps=1e-3),
)


GEMMAS = (*GEMMA, *GEMMA2, *GEMMA3)
"""All of them."""
