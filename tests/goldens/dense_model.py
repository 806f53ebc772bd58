"""Small dense decoders with weights from a seed, described by their config.json.

`variants_dense.py` and `variants_gemma.py` say what there is; here are the weights by the names and
in the layout of transformers, and the way from there to GGUF as llama.cpp's converter goes it.
Needs NumPy alone, and nothing of Tektra, so that a fault of ours cannot be in both halves of a
comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.goldens.seeds import F32, generator, neighbours_rotated, seal, text
from tests.goldens.variants_dense import DENSE as OTHERS
from tests.goldens.variants_gemma import GEMMAS

__all__ = [
    "DENSE",
    "DenseVariant",
    "checkpoint_weights",
    "fingerprint",
    "gguf_weights",
    "token_ids",
]


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


def variant(
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


DENSE: Mapping[str, DenseVariant] = MappingProxyType(
    {spec["name"]: variant(**spec) for spec in (*GEMMAS, *OTHERS)}
)


def token_ids(v: DenseVariant) -> NDArray[np.int32]:
    """The text of the variant: int32 [num_tokens]."""
    return text(v.name, v.num_tokens, v.vocab_size)


def checkpoint_weights(v: DenseVariant) -> dict[str, F32]:
    """Weights by the names that transformers has, in its layout.

    The spread is such that attention is neither flat nor one-hot, so that each part of the model
    shows in the logits.
    """
    rng = generator(v.name)
    weights: dict[str, F32] = {}
    for name, shape, spread, mean in _tensors(v):
        weights[name] = (rng.standard_normal(shape) * spread + mean).astype(np.float32)
    return weights


Tensor = tuple[str, tuple[int, ...], float, float]
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_OLMOS = ("olmo2", "olmo3")


def _tensors(v: DenseVariant) -> Iterator[Tensor]:
    """Name, shape, spread and mean of each tensor."""
    one = 0.0 if v.model_type in _GEMMAS else 1.0  # gemma's norms multiply by 1 + w

    def linear(
        name: str, rows: int, columns: int, *, bias: bool, gain: float = 1.0
    ) -> Iterator[Tensor]:
        yield f"{name}.weight", (rows, columns), gain / math.sqrt(columns), 0.0
        if bias:
            yield f"{name}.bias", (rows,), 0.2, 0.0

    def norm(name: str, width: int) -> Iterator[Tensor]:
        yield f"{name}.weight", (width,), 0.2, one

    hidden, ffn, head = v.hidden_size, v.intermediate_size, v.width_of_head
    q_rows, kv_rows = v.num_attention_heads * head, v.num_key_value_heads * head
    biased, mlp_biased = v.config.get("attention_bias", False), v.config.get("mlp_bias", False)
    embedding_gain = (
        0.5 if v.model_type in _GEMMAS else 4.0 / v.config.get("embedding_multiplier", 1)
    )
    yield from linear("model.embed_tokens", v.vocab_size, hidden, bias=False, gain=embedding_gain)
    for i in range(v.num_hidden_layers):
        layer = f"model.layers.{i}"
        if v.model_type not in _OLMOS:
            yield from norm(f"{layer}.input_layernorm", hidden)
        if v.model_type == "phi3":
            rows = q_rows + 2 * kv_rows
            yield from linear(f"{layer}.self_attn.qkv_proj", rows, hidden, bias=False, gain=1.5)
        else:
            for part, rows in (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)):
                gain = 1.0 if part == "v_proj" else 1.5
                yield from linear(f"{layer}.self_attn.{part}", rows, hidden, bias=biased, gain=gain)
        if v.model_type in ("qwen3", "gemma3_text"):
            yield from norm(f"{layer}.self_attn.q_norm", head)
            yield from norm(f"{layer}.self_attn.k_norm", head)
        elif v.model_type in _OLMOS:
            yield from norm(f"{layer}.self_attn.q_norm", q_rows)
            yield from norm(f"{layer}.self_attn.k_norm", kv_rows)
        yield from linear(f"{layer}.self_attn.o_proj", hidden, q_rows, bias=biased)
        yield from norm(f"{layer}.post_attention_layernorm", hidden)
        if v.model_type in ("gemma2", "gemma3_text"):
            yield from norm(f"{layer}.pre_feedforward_layernorm", hidden)
        if v.model_type in ("gemma2", "gemma3_text", *_OLMOS):
            yield from norm(f"{layer}.post_feedforward_layernorm", hidden)
        if v.model_type == "phi3":
            yield from linear(f"{layer}.mlp.gate_up_proj", 2 * ffn, hidden, bias=False)
        else:
            yield from linear(f"{layer}.mlp.gate_proj", ffn, hidden, bias=mlp_biased)
            yield from linear(f"{layer}.mlp.up_proj", ffn, hidden, bias=mlp_biased)
        yield from linear(f"{layer}.mlp.down_proj", hidden, ffn, bias=mlp_biased)
    yield from norm("model.norm", hidden)
    if not v.tie_word_embeddings:
        yield from linear("lm_head", v.vocab_size, hidden, bias=False)


def fingerprint(v: DenseVariant) -> int:
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
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)
_PERMUTED = ("llama", "granite", "smollm3", "mistral3")
"""Architectures whose query and key GGUF has with neighbours rotated together."""


def gguf_weights(v: DenseVariant) -> dict[str, F32]:
    """The same weights as a GGUF converter writes them."""
    weights: dict[str, F32] = {}
    for name, array in checkpoint_weights(v).items():
        stem, kind = name.rsplit(".", 1)
        if v.model_type in _GEMMAS and stem.endswith("norm"):
            array = array + np.float32(1.0)
        if stem in _GLOBAL_NAMES:
            weights[f"{_GLOBAL_NAMES[stem]}.{kind}"] = array
            continue
        _, _, layer, part = stem.split(".", 3)
        heads = {
            "self_attn.q_proj": v.num_attention_heads,
            "self_attn.k_proj": v.num_key_value_heads,
        }
        if v.architecture in _PERMUTED and part in heads:
            array = neighbours_rotated(array, heads[part])
        ours = _LAYER_NAMES[part]
        if part == "post_attention_layernorm" and (
            v.model_type in ("gemma2", "gemma3_text", *_OLMOS)
        ):
            ours = "post_attention_norm"
        weights[f"blk.{layer}.{ours}.{kind}"] = array
    for tensor, key in (
        ("rope_factors_long", "long_factor"),
        ("rope_factors_short", "short_factor"),
    ):
        factors = v.config.get("rope_parameters", {}).get(key)
        if factors is not None:
            weights[f"{tensor}.weight"] = np.array(factors, np.float32)
    return weights
