"""The variants of dense decoders: the smallest models that show each option of a configuration.

Each is its config.json, and beside it the metadata that llama.cpp's converter makes of that. Needs
nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["DENSE", "DenseVariant"]


@dataclass(frozen=True, kw_only=True)
class DenseVariant:
    """One small model.

    Attributes:
        name: of the variant.
        architecture: ``general.architecture`` of its GGUF file.
        config: its config.json, complete: nothing is left to defaults but what is not there.
        metadata: what its GGUF file says, keys without the architecture in front.
        num_tokens: length of the text whose logits are compared.
        rows: which of its positions are kept in the golden.
        context: how many tokens the model is opened for.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    num_tokens: int = 48
    rows: tuple[int, ...] = (0, 1, 17, 47)
    context: int = 256

    def __getattr__(self, key: str) -> Any:
        """An entry of config.json."""
        try:
            return self.config[key]
        except KeyError:
            raise AttributeError(key) from None

    @property
    def width_of_head(self) -> int:
        return int(self.config.get("head_dim") or self.hidden_size // self.num_attention_heads)

    @property
    def gguf_metadata(self) -> dict[str, Any]:
        """Metadata as a GGUF converter writes it, without a tokenizer."""
        own = {f"{self.architecture}.{key}": value for key, value in self.metadata.items()}
        return {"general.architecture": self.architecture, **own}


# What is not said for a variant, by the names of config.json and of GGUF.
_SIZES = (
    ("hidden_size", "embedding_length", 64),
    ("intermediate_size", "feed_forward_length", 160),
    ("num_hidden_layers", "block_count", 2),
    ("num_attention_heads", "attention.head_count", 4),
    ("num_key_value_heads", "attention.head_count_kv", 2),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-6),
    ("max_position_embeddings", "context_length", 256),
)
_LONG: Mapping[str, Any] = MappingProxyType({"num_tokens": 200, "rows": (0, 31, 64, 130, 199)})


def _variant(
    name: str,
    model_type: str,
    *,
    architecture: str | None = None,
    theta: float = 10000.0,
    head_dim: int | None = None,
    tied: bool = False,
    metadata: Mapping[str, Any] = MappingProxyType({}),
    text: Mapping[str, Any] = MappingProxyType({}),
    **config: Any,
) -> DenseVariant:
    """A variant whose config.json has these entries, beside sizes, base and head width.

    ``metadata`` is what GGUF says more, ``text`` are fields of the variant.
    """
    ours: dict[str, Any] = {"rope.freq_base": theta}
    theirs: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 259,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    }
    for key, gguf, default in _SIZES:
        theirs[key] = ours[gguf] = config.pop(key, default)
    theirs.setdefault("rope_theta", theta)
    if head_dim is not None:
        theirs["head_dim"] = head_dim
        ours["attention.key_length"] = ours["attention.value_length"] = head_dim
    return DenseVariant(
        name=name,
        architecture=architecture or model_type,
        config=MappingProxyType({**theirs, **config}),
        metadata=MappingProxyType({**ours, **metadata}),
        **text,
    )


def _layer_types(*sliding: bool) -> list[str]:
    return ["sliding_attention" if s else "full_attention" for s in sliding]


def _gemma3(name: str, *, head_dim: int = 32, scalar: int = 32, **rest: Any) -> DenseVariant:
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
) -> DenseVariant:
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


def _gemma(name: str, **rest: Any) -> DenseVariant:
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


def _qwen3(name: str, **rest: Any) -> DenseVariant:
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

DENSE: Mapping[str, DenseVariant] = MappingProxyType(
    {v.name: v for v in (*GEMMA, *GEMMA2, *GEMMA3, *QWEN3)}
)
"""All of them by name."""
