"""The small mixtures of experts that are compared with transformers, each by its config.json.

`moe_model.py` makes their weights from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["MOE", "MoeVariant"]


@dataclass(frozen=True, kw_only=True)
class MoeVariant:
    """One small model.

    Attributes:
        name: of the variant.
        architecture: ``general.architecture`` of its GGUF file.
        config: its config.json.
        num_tokens: length of the text whose logits are compared.
        rows: which of its positions are kept in the golden.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    num_tokens: int = 48
    rows: tuple[int, ...] = (0, 1, 17, 47)

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    @property
    def num_experts(self) -> int:
        c = self.config
        return int(c["num_experts"] if "num_experts" in c else c["num_local_experts"])

    @property
    def head_dim(self) -> int:
        return int(
            self.config.get("head_dim") or self["hidden_size"] // self["num_attention_heads"]
        )

    @property
    def expert_width(self) -> int:
        return int(self.config.get("moe_intermediate_size", self["intermediate_size"]))

    @property
    def is_mxfp4(self) -> bool:
        return "quantization_config" in self.config

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        if layer in self.config.get("mlp_only_layers", ()):
            return False
        return (layer + 1) % int(self.config.get("decoder_sparse_step", 1)) == 0


_CLASSES = MappingProxyType(
    {
        "mixtral": ("llama", "MixtralForCausalLM"),
        "qwen2_moe": ("qwen2moe", "Qwen2MoeForCausalLM"),
        "qwen3_moe": ("qwen3moe", "Qwen3MoeForCausalLM"),
        "olmoe": ("olmoe", "OlmoeForCausalLM"),
        "gpt_oss": ("gpt-oss", "GptOssForCausalLM"),
        "granitemoe": ("granitemoe", "GraniteMoeForCausalLM"),
        "granitemoeshared": ("granitemoe", "GraniteMoeSharedForCausalLM"),
    }
)
_DEFAULT_ROPE = MappingProxyType({"rope_type": "default", "rope_theta": 10000.0})


def _variant(name: str, model_type: str, *, long: bool = False, **config: Any) -> MoeVariant:
    architecture, transformers_class = _CLASSES[model_type]
    common = {
        "architectures": [transformers_class],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 259,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": dict(_DEFAULT_ROPE),
    }
    more: dict[str, Any] = {"num_tokens": 200, "rows": (0, 31, 64, 130, 199)} if long else {}
    return MoeVariant(name=name, architecture=architecture, config={**common, **config}, **more)


def _mixtral(name: str, *, long: bool = False, **config: Any) -> MoeVariant:
    own = {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None}
    return _variant(name, "mixtral", long=long, **{**own, **config})


def _qwen2(name: str, **config: Any) -> MoeVariant:
    own = {
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 72,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return _variant(name, "qwen2_moe", **{**own, **config})


def _qwen3(name: str, **config: Any) -> MoeVariant:
    own = {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "head_dim": 24,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "attention_bias": False,
    }
    return _variant(name, "qwen3_moe", **{**own, **config})


def _olmoe(name: str, **config: Any) -> MoeVariant:
    own = {
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "intermediate_size": 40,
        "num_key_value_heads": 4,
        "norm_topk_prob": False,
        "attention_bias": False,
        "clip_qkv": None,
    }
    return _variant(name, "olmoe", **{**own, **config})


def _yarn(**more: Any) -> dict[str, Any]:
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 32,
    }
    return {**yarn, **more}


def _gpt_oss(name: str, **config: Any) -> MoeVariant:
    own = {
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "head_dim": 32,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "attention_bias": True,
        "swiglu_limit": 7.0,
        "rope_parameters": _yarn(),
    }
    return _variant(name, "gpt_oss", long=True, **{**own, **config})


def _granite(name: str, kind: str = "granitemoe", **config: Any) -> MoeVariant:
    own = {
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "intermediate_size": 40,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "attention_bias": False,
    }
    return _variant(name, kind, **{**own, **config})


MOE: Mapping[str, MoeVariant] = MappingProxyType(
    {
        v.name: v
        for v in (
            _mixtral("mixtral"),
            _mixtral("mixtral-tied", tie_word_embeddings=True, num_key_value_heads=4),
            _mixtral("mixtral-window", long=True, sliding_window=20),
            _mixtral("mixtral-all", num_local_experts=3, num_experts_per_tok=3, head_dim=24),
            _mixtral("mixtral-one", num_experts_per_tok=1),
            _qwen2("qwen2moe"),
            _qwen2("qwen2moe-normalized", norm_topk_prob=True, num_key_value_heads=4),
            _qwen2("qwen2moe-dense-layer", mlp_only_layers=[0]),
            _qwen2("qwen2moe-every-second", decoder_sparse_step=2, num_hidden_layers=3),
            _qwen3("qwen3moe"),
            _qwen3("qwen3moe-unnormalized", norm_topk_prob=False, num_key_value_heads=1),
            _qwen3("qwen3moe-tied", tie_word_embeddings=True, mlp_only_layers=[1]),
            _olmoe("olmoe"),
            _olmoe("olmoe-normalized", norm_topk_prob=True, num_key_value_heads=2),
            _granite("granitemoe"),
            _granite("granitemoe-shared", "granitemoeshared", shared_intermediate_size=56),
            _gpt_oss("gpt-oss"),
            _gpt_oss("gpt-oss-mxfp4", quantization_config={"quant_method": "mxfp4"}),
            _gpt_oss("gpt-oss-truncated", rope_parameters=_yarn(truncate=True)),
            _gpt_oss(
                "gpt-oss-types",
                num_hidden_layers=3,
                layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                num_experts_per_tok=4,
            ),
        )
    }
)
