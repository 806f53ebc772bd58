"""Golden files of the tokenizer tests, and the tokenizers made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tektra.tokenizer import Tokenizer, load_from_gguf

GOLDENS = Path(__file__).parent.parent / "goldens" / "tokenizer"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text("ascii"))
    return content


def bpe_metadata(golden: dict[str, Any]) -> dict[str, Any]:
    """GGUF metadata with the vocabulary of a tokenizer.json."""
    content = golden["tokenizer_json"]
    vocab: dict[str, int] = dict(content["model"]["vocab"])
    types = dict.fromkeys(vocab, 1)
    for added in content["added_tokens"]:
        vocab[added["content"]] = added["id"]
        types[added["content"]] = 3 if added["special"] else 4
    tokens = sorted(vocab, key=vocab.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": golden["pre"],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [types[token] for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": vocab["<|bos|>"],
        "tokenizer.ggml.eos_token_id": vocab["<|im_end|>"],
    }


@pytest.fixture(scope="session")
def goldens() -> dict[str, dict[str, Any]]:
    """Content of each golden file by name."""
    return {path.stem: read(path.stem) for path in GOLDENS.glob("*.json")}


@pytest.fixture(scope="session")
def metadata(goldens: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """GGUF metadata of each trained tokenizer, as ``bpe_...`` and ``spm_...``."""
    return {
        name: golden["metadata"] if name.startswith("spm") else bpe_metadata(golden)
        for name, golden in goldens.items()
        if name.startswith(("bpe", "spm"))
    }


@pytest.fixture(scope="session")
def tokenizers(metadata: dict[str, dict[str, Any]]) -> dict[str, Tokenizer]:
    """Each trained tokenizer, loaded from GGUF metadata."""
    return {name: load_from_gguf(content) for name, content in metadata.items()}


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """Source of each chat template by name."""
    paths = (GOLDENS / "templates").glob("*.jinja")
    return {path.stem: path.read_text("utf-8") for path in paths}


@pytest.fixture(scope="session")
def texts(goldens: dict[str, dict[str, Any]]) -> list[str]:
    found: list[str] = goldens["corpus"]["texts"]
    return found


@pytest.fixture(scope="session")
def bpe(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["bpe_qwen2"]


@pytest.fixture(scope="session")
def spm(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["spm_llama"]
