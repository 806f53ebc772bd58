"""Model files with something wrong in them, made from the tiny one.

Writes whole, well-formed GGUF files: what is wrong is a value. It does not load them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.fixtures.tiny_model import write_tiny_model

from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import TensorSource, write_gguf

__all__ = ["MISSING", "SPM_TOKENS", "quick_writes", "rewrite", "spm_metadata", "write_full_model"]

MISSING = object()
"""Instead of a value: the key is left out."""

SPM_TOKENS = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *("\u2581", "h", "e", "l", "o", "he", "ll", "hell", "hello", "\u2581hello"),
]


@contextmanager
def quick_writes() -> Iterator[None]:
    """Files that nobody wants to find after a power failure."""
    with patch.object(os, "fsync"):
        yield


def rewrite(source: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """The model with some metadata changed: `Typed` or plain values by key, or `MISSING`."""
    with GGUFFile.open(source) as file, quick_writes():
        metadata: dict[str, Any] = {**file.typed_metadata, **changes}
        tensors: list[TensorSource] = [
            (info.name, info.shape, info.type, file.tensor_bytes(info.name))
            for info in file.tensors.values()
        ]
        kept = {key: value for key, value in metadata.items() if value is not MISSING}
        write_gguf(target, kept, tensors)
    return target


def spm_metadata() -> dict[str, Any]:
    """The keys of a SentencePiece-style tokenizer, in the place of the byte-level one's."""
    count = len(SPM_TOKENS)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": SPM_TOKENS,
        "tokenizer.ggml.scores": Typed([-float(i) for i in range(count)], "f32"),
        "tokenizer.ggml.token_type": Typed([2, 3, 3, *[6] * 256, *[1] * (count - 259)], "i32"),
        "tokenizer.ggml.merges": MISSING,
        "tokenizer.ggml.bos_token_id": Typed(1, "u32"),
        "tokenizer.ggml.eos_token_id": Typed(2, "u32"),
        "tokenizer.ggml.unknown_token_id": Typed(0, "u32"),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def write_full_model(path: Path) -> Path:
    """The tiny model with every optional key that there is, and a SentencePiece tokenizer."""
    write_tiny_model(path)
    optional = {
        "general.alignment": Typed(32, "u32"),
        "general.sampling.temp": Typed(0.5, "f32"),
        "general.sampling.top_k": Typed(40, "i32"),
        "general.sampling.top_p": Typed(0.9, "f32"),
        "general.sampling.mirostat_tau": Typed(5.0, "f32"),
        "llama.vocab_size": Typed(288, "u32"),
        "llama.attention.key_length": Typed(16, "u32"),
        "llama.attention.value_length": Typed(16, "u32"),
        "llama.attention.scale": Typed(0.25, "f32"),
        "llama.attention.sliding_window": Typed(64, "u32"),
        "llama.attention.causal": True,
        "llama.expert_count": Typed(0, "u32"),
        "llama.rope.dimension_count": Typed(16, "u32"),
        "llama.rope.freq_base": Typed(10000.0, "f32"),
        "llama.rope.scale_linear": Typed(1.0, "f32"),
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": Typed(2.0, "f32"),
        "llama.rope.scaling.attn_factor": Typed(1.0, "f32"),
        "llama.rope.scaling.original_context_length": Typed(128, "u32"),
        "llama.rope.scaling.yarn_beta_fast": Typed(32.0, "f32"),
        "llama.rope.scaling.yarn_beta_slow": Typed(1.0, "f32"),
        "llama.rope.scaling.yarn_attn_factor": Typed(1.0, "f32"),
        "llama.rope.scaling.yarn_ext_factor": Typed(1.0, "f32"),
        "llama.rope.scaling.yarn_log_multiplier": Typed(0.0, "f32"),
    }
    return rewrite(path, path, optional | spm_metadata())
