"""`tokenizer.model` files that SentencePiece wrote: ids as it gives them, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tektra.errors import TektraError, TokenizerError
from tektra.tokenizer.directory import load_from_directory
from tektra.tokenizer.sentencepiece_model import load_from_sentencepiece, sentencepiece_metadata

GOLDENS = Path(__file__).parent.parent / "goldens" / "tokenizer"
SPM = ("llama", "gemma", "plain", "across")


def model(name: str) -> bytes:
    return (GOLDENS / f"spm_{name}.model").read_bytes()


@pytest.mark.parametrize("name", SPM)
def test_ids_are_those_of_sentencepiece(
    name: str, texts: list[str], goldens: dict[str, dict[str, Any]]
) -> None:
    golden = goldens[f"spm_{name}"]
    tokenizer = load_from_sentencepiece(model(name))
    for number, (text, ids) in enumerate(zip(texts, golden["ids"], strict=True)):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == golden["decoded"].get(str(number), text)


@pytest.mark.parametrize("name", SPM)
def test_metadata_is_that_of_a_conversion(name: str, goldens: dict[str, dict[str, Any]]) -> None:
    found = sentencepiece_metadata(model(name))
    for key, value in goldens[f"spm_{name}"]["metadata"].items():
        assert found[key] == (pytest.approx(value) if key.endswith("scores") else value), key


def test_the_configuration_beside_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model("llama"))
    size = load_from_sentencepiece(model("llama")).vocab_size
    config = {
        "add_bos_token": False,
        "eos_token": {"content": "<|end|>"},
        "added_tokens_decoder": {
            "1": {"content": "<s>", "special": True},
            str(size): {"content": "<|end|>", "special": True},
            str(size + 1): {"content": "<tool>", "special": False},
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_from_directory(tmp_path, end_ids=frozenset({5, 10**6}))
    assert not tokenizer.add_bos
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (size + 2, size)
    assert {5, size} <= tokenizer.eos_ids
    assert 10**6 not in tokenizer.eos_ids
    assert tokenizer.encode("a<|end|>", add_special=False)[-1] == size
    assert size + 1 in tokenizer.encode("a<tool>b", add_special=False)
    assert load_from_sentencepiece(model("llama")).add_bos


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"99999": {"content": "x"}}},
        {"added_tokens_decoder": {"-1": {"content": "x"}}},
        {"added_tokens_decoder": {"1": {"content": "other"}}},
        {"added_tokens_decoder": {"x": {}}},
        {"added_tokens_decoder": []},
        {"bos_token": "nowhere"},
        {"bos_token": 7},
        {"add_bos_token": "yes"},
    ],
)
def test_bad_configurations(config: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="tokenizer_config"):
        load_from_sentencepiece(model("llama"), config)


def test_every_cut(goldens: dict[str, dict[str, Any]]) -> None:
    """A cut at the border of a piece leaves a smaller vocabulary, any other one an error."""
    data = model("plain")
    accepted = 0
    for end in range(0, len(data), 37):
        try:
            metadata = sentencepiece_metadata(data[:end])
        except TokenizerError:
            continue
        accepted += 1
        pieces = goldens["spm_plain"]["metadata"]["tokenizer.ggml.tokens"]
        assert metadata["tokenizer.ggml.tokens"] == pieces[: len(metadata["tokenizer.ggml.tokens"])]
    assert accepted < len(data) / 37 / 5


def test_flips() -> None:
    data = model("plain")
    refused = 0
    for at in range(0, len(data), 211):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 7)
        try:
            load_from_sentencepiece(bytes(flipped))
        except TektraError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0f",
        b"\x00\x00",
        b"\xff" * 20,
    ],
)
def test_not_a_model(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_from_sentencepiece(data)


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load_from_directory(tmp_path)
