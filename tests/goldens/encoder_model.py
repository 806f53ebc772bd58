"""Weights of the small encoders, and the way from there to GGUF as llama.cpp's converter goes it.

`variants_encoder.py` says which there are. Weights have the names and the layout of transformers.
Needs NumPy alone, and nothing of Tektra.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.goldens.seeds import F32, generator, seal, text
from tests.goldens.variants_encoder import Encoder

__all__ = [
    "checkpoint_weights",
    "config_json",
    "fingerprint",
    "gguf_metadata",
    "gguf_weights",
    "segments",
    "token_ids",
]


def token_ids(v: Encoder) -> NDArray[np.int32]:
    """The text of the variant: int32 [num_tokens]. It has no padding in it."""
    return text(v.name, v.num_tokens, v.vocab, first=v.pad + 1)


def segments(v: Encoder) -> NDArray[np.int32]:
    """Which segment each token belongs to: int32 [num_tokens]."""
    start = v.num_tokens if v.second is None else v.second
    return (np.arange(v.num_tokens) >= start).astype(np.int32)


def config_json(v: Encoder) -> dict[str, Any]:
    """config.json, as checkpoints on the hub have it."""
    config: dict[str, Any] = {
        "model_type": v.family,
        "architectures": [_CLASSES[v.family][1 if v.labels else 0]],
        "vocab_size": v.vocab,
        "hidden_size": v.hidden,
        "intermediate_size": v.ffn,
        "num_hidden_layers": v.layers,
        "num_attention_heads": v.heads,
        "max_position_embeddings": v.context + (v.pad + 1 if v.is_roberta else 0),
        "pad_token_id": v.pad,
    }
    if v.family == "modernbert":
        config |= {
            "norm_eps": v.eps,
            "hidden_activation": v.act,
            "norm_bias": v.norm_bias,
            "attention_bias": v.attention_bias,
            "mlp_bias": v.mlp_bias,
            "classifier_pooling": "cls",
        }
    else:
        config |= {
            "layer_norm_eps": v.eps,
            "hidden_act": v.act,
            "type_vocab_size": v.segments,
        }
    if v.labels:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(v.labels)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(v.labels)}
    return config | dict(v.more)


_CLASSES = MappingProxyType(
    {
        "bert": ("BertModel", "BertForSequenceClassification"),
        "roberta": ("RobertaModel", "RobertaForSequenceClassification"),
        "xlm-roberta": ("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
        "nomic_bert": ("NomicBertModel", ""),
        "modernbert": ("ModernBertModel", "ModernBertForSequenceClassification"),
    }
)


class _Weights:
    """Draws from the seed of a variant, in order."""

    def __init__(self, v: Encoder) -> None:
        self._rng = generator(v.name)
        self.all: dict[str, F32] = {}

    def matrix(self, name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        spread = gain / math.sqrt(columns)
        values = self._rng.standard_normal((rows, columns)) * spread
        self.all[f"{name}.weight"] = values.astype(np.float32)

    def vector(self, name: str, size: int, mean: float = 0.0) -> None:
        self.all[name] = (self._rng.standard_normal(size) * 0.2 + mean).astype(np.float32)

    def linear(
        self, name: str, rows: int, columns: int, gain: float = 1.0, *, bias: bool = True
    ) -> None:
        self.matrix(name, rows, columns, gain)
        if bias:
            self.vector(f"{name}.bias", rows)

    def norm(self, name: str, size: int, *, bias: bool = True) -> None:
        self.vector(f"{name}.weight", size, mean=1.0)
        if bias:
            self.vector(f"{name}.bias", size)


def checkpoint_weights(v: Encoder) -> dict[str, F32]:
    """Weights by the names that transformers has, in its layout.

    A model with a classification head has its base model under a prefix.
    """
    w = _Weights(v)
    {"nomic_bert": _nomic, "modernbert": _modern}.get(v.family, _bert)(v, w)
    if not v.labels:
        return w.all
    prefix = {"bert": "bert.", "modernbert": "model."}.get(v.family, "roberta.")
    weights = {prefix + name: array for name, array in w.all.items()}
    w.all = {}
    if v.family == "modernbert":
        w.linear("head.dense", v.hidden, v.hidden, bias=False)
        w.norm("head.norm", v.hidden, bias=v.norm_bias)
        w.linear("classifier", v.labels, v.hidden)
    elif v.family == "bert":
        w.linear("classifier", v.labels, v.hidden)
    else:
        w.linear("classifier.dense", v.hidden, v.hidden)
        w.linear("classifier.out_proj", v.labels, v.hidden)
    return weights | w.all


def _bert(v: Encoder, w: _Weights) -> None:
    w.matrix("embeddings.word_embeddings", v.vocab, v.hidden, gain=4.0)
    positions = v.context + (v.pad + 1 if v.is_roberta else 0)
    w.matrix("embeddings.position_embeddings", positions, v.hidden, gain=2.0)
    w.matrix("embeddings.token_type_embeddings", v.segments, v.hidden, gain=2.0)
    w.norm("embeddings.LayerNorm", v.hidden)
    for i in range(v.layers):
        layer = f"encoder.layer.{i}"
        w.linear(f"{layer}.attention.self.query", v.hidden, v.hidden, 1.5)
        w.linear(f"{layer}.attention.self.key", v.hidden, v.hidden, 1.5)
        w.linear(f"{layer}.attention.self.value", v.hidden, v.hidden)
        w.linear(f"{layer}.attention.output.dense", v.hidden, v.hidden)
        w.norm(f"{layer}.attention.output.LayerNorm", v.hidden)
        w.linear(f"{layer}.intermediate.dense", v.ffn, v.hidden)
        w.linear(f"{layer}.output.dense", v.hidden, v.ffn)
        w.norm(f"{layer}.output.LayerNorm", v.hidden)
    if v.family == "bert" or not v.labels:
        w.linear("pooler.dense", v.hidden, v.hidden)


def _nomic(v: Encoder, w: _Weights) -> None:
    w.matrix("embeddings.word_embeddings", v.vocab, v.hidden, gain=4.0)
    w.matrix("embeddings.token_type_embeddings", v.segments, v.hidden, gain=2.0)
    w.norm("embeddings.LayerNorm", v.hidden)
    for i in range(v.layers):
        layer = f"layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            gain = 1.5 if part in ("q_proj", "k_proj") else 1.0
            w.linear(f"{layer}.self_attn.{part}", v.hidden, v.hidden, gain, bias=False)
        w.norm(f"{layer}.post_attention_layernorm", v.hidden)
        w.linear(f"{layer}.mlp.gate_proj", v.ffn, v.hidden, bias=False)
        w.linear(f"{layer}.mlp.up_proj", v.ffn, v.hidden, bias=False)
        w.linear(f"{layer}.mlp.down_proj", v.hidden, v.ffn, bias=False)
        w.norm(f"{layer}.post_mlp_layernorm", v.hidden)


def _modern(v: Encoder, w: _Weights) -> None:
    w.matrix("embeddings.tok_embeddings", v.vocab, v.hidden, gain=4.0)
    w.norm("embeddings.norm", v.hidden, bias=v.norm_bias)
    for i in range(v.layers):
        layer = f"layers.{i}"
        if i:
            w.norm(f"{layer}.attn_norm", v.hidden, bias=v.norm_bias)
        w.linear(f"{layer}.attn.Wqkv", 3 * v.hidden, v.hidden, 1.5, bias=v.attention_bias)
        w.linear(f"{layer}.attn.Wo", v.hidden, v.hidden, bias=v.attention_bias)
        w.norm(f"{layer}.mlp_norm", v.hidden, bias=v.norm_bias)
        w.linear(f"{layer}.mlp.Wi", 2 * v.ffn, v.hidden, bias=v.mlp_bias)
        w.linear(f"{layer}.mlp.Wo", v.hidden, v.ffn, bias=v.mlp_bias)
    w.norm("final_norm", v.hidden, bias=v.norm_bias)


def fingerprint(v: Encoder) -> int:
    """Checksum of text and weights: tells whether the seed still makes what it made."""
    return seal([token_ids(v), segments(v), *checkpoint_weights(v).values()])


_GLOBAL_NAMES = MappingProxyType(
    {
        "embeddings.word_embeddings": "token_embd",
        "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "token_embd_norm",
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
        "pooler.dense": "cls",
        "classifier.dense": "cls",
        "head.dense": "cls",
        "head.norm": "cls.norm",
        "classifier": "cls.output",
        "classifier.out_proj": "cls.output",
    }
)
_LAYER_NAMES = MappingProxyType(
    {
        "attention.self.query": "attn_q",
        "attention.self.key": "attn_k",
        "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up",
        "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "attn_output_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_mlp_layernorm": "layer_output_norm",
        "attn_norm": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.Wo": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.Wi": "ffn_up",
        "mlp.Wo": "ffn_down",
    }
)


def gguf_weights(v: Encoder) -> dict[str, F32]:
    """The same weights as a GGUF converter writes them.

    But for one thing: the converter of llama.cpp leaves the pooler of a BERT out, also where a
    classification head stands on it. Here it is its ``cls``, as with the roberta family.
    """
    weights: dict[str, F32] = {}
    fused: dict[str, list[F32]] = {}
    for name, array in checkpoint_weights(v).items():
        stem, kind = name.rsplit(".", 1)
        for prefix in ("bert.", "roberta.", "model."):
            stem = stem.removeprefix(prefix)
        if stem == "pooler.dense" and not v.labels:
            continue
        if stem in _GLOBAL_NAMES:
            if stem == "embeddings.position_embeddings" and v.is_roberta:
                array = array[v.pad + 1 :]
            weights[f"{_GLOBAL_NAMES[stem]}.{kind}"] = array
            continue
        layer, part = stem.removeprefix("encoder.").removeprefix("layer").lstrip("s.").split(".", 1)
        if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            fused.setdefault(f"blk.{layer}.attn_qkv.{kind}", []).append(array)
            continue
        weights[f"blk.{layer}.{_LAYER_NAMES[part]}.{kind}"] = array
    return weights | {name: np.concatenate(parts) for name, parts in fused.items()}


def gguf_metadata(v: Encoder) -> dict[str, Any]:
    """Metadata as a GGUF converter writes it, without a tokenizer."""
    a = v.architecture
    metadata: dict[str, Any] = {
        "general.architecture": a,
        f"{a}.block_count": v.layers,
        f"{a}.context_length": v.context,
        f"{a}.embedding_length": v.hidden,
        f"{a}.feed_forward_length": v.ffn,
        f"{a}.attention.head_count": v.heads,
        f"{a}.attention.layer_norm_epsilon": v.eps,
        f"{a}.attention.causal": False,
    }
    if v.family == "modernbert":
        more = v.more
        metadata |= {
            f"{a}.attention.sliding_window": more["local_attention"],
            f"{a}.attention.sliding_window_pattern": more["global_attn_every_n_layers"],
            f"{a}.rope.freq_base": more.get("global_rope_theta", 160000.0),
            f"{a}.rope.freq_base_swa": more.get("local_rope_theta", 10000.0),
            f"{a}.rope.scaling.type": "none",
            f"{a}.vocab_size": v.vocab,
            f"{a}.hidden_act": v.act,
        }
    else:
        metadata["tokenizer.ggml.token_type_count"] = v.segments
        if v.act not in ("gelu", "silu"):  # llama.cpp's converter knows one function for these
            metadata[f"{a}.hidden_act"] = v.act
    if v.family == "nomic_bert":
        metadata[f"{a}.rope.freq_base"] = v.more.get("rope_theta", 1000.0)
    return metadata
