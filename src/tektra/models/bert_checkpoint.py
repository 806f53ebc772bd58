"""BERT and the RoBERTa family as Hugging Face directories, seen as the GGUF files they would be.

RoBERTa counts positions from behind its padding token on (Liu et al.,
https://arxiv.org/abs/1907.11692): GGUF leaves the rows before that out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from tektra.formats.hf_config import HfConfig
from tektra.models.base import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from tektra.models.checkpoint_format import CheckpointFormat, FromRow, Target, To

__all__ = ["CHECKPOINT", "CLASSIFIER", "ROBERTA", "ROBERTA_CLASSIFIER", "encoder_metadata"]

_ROBERTA_PAD: Final = 1
_FIRST_POSITION: Final = _ROBERTA_PAD + 1


def encoder_metadata(c: HfConfig) -> dict[str, Any]:
    """Metadata of an encoder of BERT's shape, but for its positions."""
    c.only("is_decoder", False)
    return {
        "block_count": c.int("num_hidden_layers", minimum=1, maximum=MAX_LAYERS),
        "context_length": c.int("max_position_embeddings", minimum=1, maximum=MAX_CONTEXT),
        "embedding_length": c.int("hidden_size", minimum=1, maximum=MAX_WIDTH),
        "feed_forward_length": c.int("intermediate_size", minimum=1, maximum=MAX_WIDTH),
        "attention.head_count": c.int("num_attention_heads", minimum=1, maximum=MAX_HEADS),
        "attention.causal": False,
        "vocab_size": c.int("vocab_size", minimum=1, maximum=1 << 31),
    }


def _metadata(c: HfConfig) -> dict[str, Any]:
    c.only("position_embedding_type", "absolute")
    return encoder_metadata(c) | {
        "attention.layer_norm_epsilon": c.float(
            "layer_norm_eps", default=1e-12, minimum=1e-30, maximum=1.0
        ),
        "hidden_act": c.str("hidden_act", default="gelu"),
        "tokenizer.ggml.token_type_count": c.int(
            "type_vocab_size", default=2, minimum=1, maximum=1 << 16
        ),
    }


def _roberta_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("pad_token_id", _ROBERTA_PAD)
    metadata = _metadata(c)
    positions = c.int("max_position_embeddings", minimum=_FIRST_POSITION + 1, maximum=MAX_CONTEXT)
    return metadata | {"context_length": positions - _FIRST_POSITION}


_GLOBAL: Final[dict[str, str]] = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER: Final[dict[str, str]] = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def _tensors() -> dict[str, Target]:
    names: dict[str, Target] = dict(_GLOBAL)
    for theirs, ours in _LAYER.items():
        names[f"encoder.layer.{{i}}.{theirs}"] = f"blk.{{i}}.{ours}"
    # What the first checkpoints, converted from TensorFlow, call weights and biases of norms.
    for theirs, target in list(names.items()):
        if theirs.endswith("LayerNorm"):
            names[f"{theirs}.gamma"] = f"{target}.weight"
            names[f"{theirs}.beta"] = f"{target}.bias"
    return names


_HEADS: Final = ("embeddings.position_ids", "cls.{any}", "lm_head.{any}")
"""Buffers, and what predicts masked words: no vector is made of it."""

CHECKPOINT: Final = CheckpointFormat(
    architecture="bert",
    metadata=_metadata,
    tensors=_tensors(),
    dropped=("pooler.{any}", *_HEADS),
    prefixes=("bert.",),
)


def _classifier(
    base: CheckpointFormat, metadata: Callable[[HfConfig], dict[str, Any]], dense: str, out: str
) -> CheckpointFormat:
    """With a classification head of two matrices."""
    return replace(
        base,
        metadata=metadata,
        tensors={**base.tensors, dense: "cls", out: "cls.output"},
        dropped=_HEADS,
    )


CLASSIFIER: Final = _classifier(CHECKPOINT, _metadata, "pooler.dense", "classifier")

ROBERTA: Final = replace(
    CHECKPOINT,
    metadata=_roberta_metadata,
    tensors={
        **CHECKPOINT.tensors,
        "embeddings.position_embeddings": To("position_embd", FromRow(_FIRST_POSITION)),
    },
    prefixes=("roberta.", "camembert."),
)

ROBERTA_CLASSIFIER: Final = _classifier(
    ROBERTA, _roberta_metadata, "classifier.dense", "classifier.out_proj"
)
