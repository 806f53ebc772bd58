"""LoRA adapters with weights from a seed, for the models of `seeded_model`: by PEFT's names.

Made alike by the golden script and by the tests. Needs NumPy alone, and nothing of Tektra.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from tests.goldens.seeds import F32, generator, neighbours_rotated, seal

__all__ = [
    "ADAPTERS",
    "COMBINATIONS",
    "SeededAdapter",
    "adapter_fingerprint",
    "gguf_adapter",
    "peft_config",
    "peft_weights",
]

Weights = Mapping[str, F32]

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class SeededAdapter:
    """One adapter of one model; fields as in PEFT's LoraConfig."""

    name: str
    base: str
    r: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ALL
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)


class Base(Protocol):
    """What is asked of a model of `seeded_model`."""

    @property
    def architecture(self) -> str: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...


ADAPTERS: Mapping[str, SeededAdapter] = MappingProxyType(
    {
        a.name: a
        for a in (
            SeededAdapter(name="llama-all", base="llama-gqa2", targets=(*ALL, "lm_head")),
            SeededAdapter(name="llama-attention", base="llama-gqa2", r=3, targets=ALL[:4]),
            SeededAdapter(name="llama-bias", base="llama-bias", r=5),
            SeededAdapter(
                name="llama-rslora",
                base="llama-odd",
                r=16,
                alpha=4,
                targets=("q_proj", "v_proj"),
                use_rslora=True,
            ),
            SeededAdapter(
                name="llama-patterns",
                base="llama-head-dim",
                rank_pattern={"q_proj": 2, "layers.1.mlp.down_proj": 11},
                alpha_pattern={"v_proj": 32, r"model\.layers\.0\.self_attn\.k_proj": 3},
            ),
            SeededAdapter(name="qwen2-all", base="qwen2-mha", targets=(*ALL, "lm_head")),
            SeededAdapter(name="qwen2-tied", base="qwen2-gqa-tied", r=1, alpha=2),
            SeededAdapter(
                name="qwen2-rslora",
                base="qwen2-odd",
                use_rslora=True,
                r=6,
                rank_pattern={"gate_proj": 3},
                alpha_pattern={"up_proj": 5},
            ),
        )
    }
)

COMBINATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"llama-two": ("llama-all", "llama-attention")}
)
"""Adapters of one model that are active at the same time."""


def peft_weights(a: SeededAdapter, model: Weights) -> dict[str, F32]:
    """Its tensors by PEFT's names, for a model of these weights by the names of transformers.

    They are large enough to change every logit.
    """
    rng = generator(f"{a.name} adapter")
    weights: dict[str, F32] = {}
    for name, matrix in _targets(a, model).items():
        rank = _of(a.rank_pattern, name, a.r)
        rows, width = matrix.shape
        stem = f"base_model.model.{name}"
        down, up = rng.standard_normal((rank, width)), rng.standard_normal((rows, rank))
        weights[f"{stem}.lora_A.weight"] = (down * 0.4 / width**0.5).astype(np.float32)
        weights[f"{stem}.lora_B.weight"] = (up * 0.4 / rank**0.5).astype(np.float32)
    return weights


def _targets(a: SeededAdapter, model: Weights) -> dict[str, F32]:
    return {
        name.removesuffix(".weight"): array
        for name, array in model.items()
        if name.endswith(".weight") and name.split(".")[-2] in a.targets
    }


def _of(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's way of looking up what is special for a module."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def peft_config(a: SeededAdapter) -> dict[str, Any]:
    """What `LoraConfig` is made with."""
    return {
        "r": a.r,
        "lora_alpha": a.alpha,
        "target_modules": list(a.targets),
        "use_rslora": a.use_rslora,
        "rank_pattern": dict(a.rank_pattern),
        "alpha_pattern": dict(a.alpha_pattern),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def adapter_fingerprint(a: SeededAdapter, model: Weights) -> int:
    """Checksum of the weights: tells whether the seed still makes what it made."""
    return seal(peft_weights(a, model).values())


_NAMES = MappingProxyType(
    {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)


def gguf_adapter(
    a: SeededAdapter, base: Base, model: Weights
) -> tuple[dict[str, Any], dict[str, F32]]:
    """Metadata and tensors as llama.cpp's converter writes them.

    The format has one alpha for all tensors: what PEFT scales otherwise is in the factors.
    """
    tensors: dict[str, F32] = {}
    weights = peft_weights(a, model)
    for name in _targets(a, model):
        down = weights[f"base_model.model.{name}.lora_A.weight"]
        up = weights[f"base_model.model.{name}.lora_B.weight"]
        rank, alpha = len(down), _of(a.alpha_pattern, name, a.alpha)
        scale = alpha / rank**0.5 if a.use_rslora else alpha / rank
        part = name.split(".", 3)[-1]
        if name == "lm_head":
            target = "output.weight"
        else:
            target = f"blk.{name.split('.')[2]}.{_NAMES[part]}.weight"
        if base.architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = base.heads if part == "self_attn.q_proj" else base.kv_heads
            up = neighbours_rotated(up, heads)
        tensors[f"{target}.lora_a"] = down
        tensors[f"{target}.lora_b"] = (up * np.float32(scale * rank / a.alpha)).astype(np.float32)
    metadata = {
        "general.type": "adapter",
        "general.architecture": base.architecture,
        "general.name": a.name,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(a.alpha),
    }
    return metadata, tensors
