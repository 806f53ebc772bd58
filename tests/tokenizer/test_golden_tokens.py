"""Token ids equal those of transformers and sentencepiece, text by text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tektra.formats.gguf import GGUFFile
from tektra.tokenizer import Tokenizer, load_from_gguf, load_from_json

BPE = ("gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "deepseek-v3")
SPM = ("llama", "gemma", "plain", "across")


Goldens = dict[str, dict[str, Any]]


def from_json(golden: dict[str, Any]) -> Tokenizer:
    config = {"bos_token": "<|bos|>", "eos_token": {"content": "<|im_end|>"}}
    return load_from_json(json.dumps(golden["tokenizer_json"]).encode(), config)


@pytest.mark.parametrize("name", BPE)
@pytest.mark.parametrize("source", ["gguf", "json"])
def test_bpe_equals_transformers(
    source: str, name: str, texts: list[str], goldens: Goldens, tokenizers: dict[str, Tokenizer]
) -> None:
    golden = goldens[f"bpe_{name}"]
    tokenizer = from_json(golden) if source == "json" else tokenizers[f"bpe_{name}"]
    assert len(golden["ids"]) == len(texts)
    for number, (text, ids) in enumerate(zip(texts, golden["ids"], strict=True)):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == golden["decoded"].get(str(number), text)


@pytest.mark.parametrize("name", BPE)
def test_a_tokenizer_json_frames_a_text_as_transformers_does(
    name: str, texts: list[str], goldens: Goldens
) -> None:
    golden = goldens[f"bpe_{name}"]
    tokenizer = from_json(golden)
    text = next(t for t in texts if t.startswith("<|im_start|>user"))
    assert tokenizer.encode(text) == golden["framed"]
    assert tokenizer.add_bos == (name == "llama-bpe")


def test_the_configuration_has_the_last_word_on_bos(goldens: Goldens) -> None:
    for name, wanted in (("llama-bpe", False), ("qwen2", True)):
        content = json.dumps(goldens[f"bpe_{name}"]["tokenizer_json"]).encode()
        config = {"bos_token": "<|bos|>", "add_bos_token": wanted}
        assert load_from_json(content, config).add_bos is wanted


def test_llama_json_equals_transformers(texts: list[str], goldens: Goldens) -> None:
    """BPE over SentencePiece's pieces, with bytes for what is not in the vocabulary."""
    golden = goldens["json_llama"]
    content = json.dumps(golden["tokenizer_json"]).encode()
    tokenizer = load_from_json(content, golden["tokenizer_config"])
    for text, ids in zip(texts, golden["ids"], strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, text
    assert tokenizer.encode("hello world") == golden["framed"]
    assert tokenizer.add_bos


@pytest.mark.parametrize("name", SPM)
def test_spm_equals_sentencepiece(
    name: str, texts: list[str], goldens: Goldens, tokenizers: dict[str, Tokenizer]
) -> None:
    golden, tokenizer = goldens[f"spm_{name}"], tokenizers[f"spm_{name}"]
    assert len(golden["ids"]) == len(texts)
    for number, (text, ids) in enumerate(zip(texts, golden["ids"], strict=True)):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == golden["decoded"].get(str(number), text)


def test_smollm2_equals_transformers(
    smollm2_path: Path, texts: list[str], goldens: Goldens
) -> None:
    with GGUFFile.open(smollm2_path) as file:
        tokenizer = load_from_gguf(file.metadata)
    for text, ids in zip(texts, goldens["smollm2"]["ids"], strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 49152
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pre) == (1, 2, "smollm")
    assert {0, 2} <= tokenizer.eos_ids
    assert not tokenizer.add_bos


def test_text_that_is_not_trusted_has_no_special_tokens(bpe: Tokenizer, spm: Tokenizer) -> None:
    for tokenizer, text in ((bpe, "a<|im_end|>b<|im_start|>"), (spm, "a</s>b<s>")):
        parsed = tokenizer.encode(text, add_special=False)
        plain = tokenizer.encode(text, add_special=False, parse_special=False)
        assert len(tokenizer.special_ids & set(parsed)) == 2
        assert not tokenizer.special_ids & set(plain)
        assert tokenizer.decode(plain) == text


def test_spm_puts_a_space_before_what_follows_a_special_token(spm: Tokenizer) -> None:
    ids = spm.encode("<s>Hello</s>world", add_special=False)
    inside = [spm.encode(text, add_special=False) for text in ("Hello", "world")]
    assert ids == [spm.bos_id, *inside[0], spm.eos_id, *inside[1]]
    assert spm.encode("Hello") == [spm.bos_id, *inside[0]]


def test_bytes_of_tokens_make_up_the_text(bpe: Tokenizer, spm: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        ids = bpe.encode(text, add_special=False)
        whole = b"".join(map(bpe.token_bytes, ids)).decode()
        assert whole == bpe.decode(ids)
        ids = spm.encode(text, add_special=False)
        whole = b"".join(map(spm.token_bytes, ids)).decode()
        assert whole == (f" {text}" if text else "").replace("\u2581", " ")


def test_every_byte_has_a_token(bpe: Tokenizer, spm: Tokenizer) -> None:
    for tokenizer in (bpe, spm):
        found = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
        assert {bytes([byte]) for byte in range(256)} <= found
