"""Tokenizers of model directories in their GGUF form: the same tokens from both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.tiny_model import MERGES, SPECIALS, byte_alphabet
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tektra.errors import TokenizerError
from tektra.tokenizer import load_from_gguf
from tektra.tokenizer.pretokenizers import PRE_TOKENIZERS, build_pre_tokenizer
from tektra.tokenizer.to_gguf import recognise_pre_tokenizer, tokenizer_metadata

GOLDENS = Path(__file__).parents[1] / "goldens"
TEXTS = ("hello world", "Hello  World\n\nthe 123 hell", "<|im_start|>hello<|im_end|> ld \u00e9")


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(value, "value", value) for key, value in metadata.items()}


def byte_level(pre: str, *, bos: bool) -> Tokenizer:
    tokens = [*SPECIALS, *byte_alphabet(), *("".join(m.split()) for m in MERGES)]
    spec = PRE_TOKENIZERS[pre]
    model = models.BPE(
        {text: i for i, text in enumerate(tokens)},
        [(m.split()[0], m.split()[1]) for m in MERGES],
        ignore_merges=spec.ignore_merges,
    )
    made = Tokenizer(model)
    made.add_special_tokens(list(SPECIALS))
    made.pre_tokenizer = build_pre_tokenizer(spec)
    made.decoder = decoders.ByteLevel()
    if spec.nfc:
        made.normalizer = normalizers.NFC()
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return made


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken"])
def test_byte_level_gives_the_same_tokens(tmp_path: Path, pre: str, bos: bool) -> None:
    oracle = byte_level(pre, bos=bos)
    oracle.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}'
    )
    metadata = plain(tokenizer_metadata(tmp_path, vocab_size=300))
    assert metadata["tokenizer.ggml.pre"] == pre
    assert len(metadata["tokenizer.ggml.tokens"]) == 300
    assert metadata["tokenizer.ggml.eos_token_id"] == 2
    assert metadata["tokenizer.ggml.add_bos_token"] is bos
    read = load_from_gguf(metadata)
    for text in TEXTS:
        assert read.encode(text, add_special=True) == oracle.encode(text).ids


def test_rules_that_nobody_has_are_refused(tmp_path: Path) -> None:
    made = byte_level("gpt-2", bos=False)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[aeiou]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="none of those"):
        tokenizer_metadata(tmp_path)
    with pytest.raises(TokenizerError, match="embeddings for 2"):
        tokenizer_metadata(tmp_path, vocab_size=2)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="malformed"):
        tokenizer_metadata(tmp_path)


KNOWN = ("deepseek-llm", "deepseek-v3", "deepseek-coder", "qwen35", "falcon", "bloom", "kimi-k2")
MORE = ("jais-2", "minicpm5", "ufakzeka", "seed-coder", "command-r", "dbrx", "viking", "superbpe")


@pytest.mark.parametrize("name", [*KNOWN, *MORE])
def test_rules_are_recognised(name: str) -> None:
    content = json.loads(byte_level(name, bos=False).to_str())
    found = PRE_TOKENIZERS[recognise_pre_tokenizer(content)]
    assert found.ignore_merges == PRE_TOKENIZERS[name].ignore_merges
    assert found.steps == PRE_TOKENIZERS[name].steps


@pytest.mark.parametrize("bos", [False, True])
def test_without_a_configuration_the_frame_is_that_of_the_file(tmp_path: Path, bos: bool) -> None:
    """Said in any case: what readers take for granted is not the same for all rules."""
    oracle = byte_level("llama-bpe", bos=bos)
    oracle.save(str(tmp_path / "tokenizer.json"))
    metadata = plain(tokenizer_metadata(tmp_path))
    assert metadata["tokenizer.ggml.add_bos_token"] is bos
    assert metadata["tokenizer.ggml.add_eos_token"] is False
    assert metadata.get("tokenizer.ggml.bos_token_id", 0) == 0
    read = load_from_gguf(metadata)
    for text in TEXTS:
        assert read.encode(text, add_special=True) == oracle.encode(text).ids


@pytest.mark.parametrize("name", ["spm_llama", "spm_gemma", "spm_plain", "spm_across"])
def test_pieces_of_sentencepiece(tmp_path: Path, name: str) -> None:
    folder = GOLDENS / "tokenizer"
    shutil.copy(folder / f"{name}.model", tmp_path / "tokenizer.model")
    metadata = plain(tokenizer_metadata(tmp_path, vocab_size=3000))
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.scores"]) == 3000
    read = load_from_gguf(metadata)
    golden = json.loads((folder / f"{name}.json").read_text())
    texts = json.loads((folder / "corpus.json").read_text())["texts"]
    assert [read.encode(text, add_special=False) for text in texts] == golden["ids"]
    with pytest.raises(TokenizerError, match=r"tokenizer.model has \d+ tokens"):
        tokenizer_metadata(tmp_path, vocab_size=2)
    # With both files the pieces count, which have scores.
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "byte_fallback": True, "vocab": {}, "merges": []}})
    )
    assert plain(tokenizer_metadata(tmp_path, vocab_size=3000)) == metadata


def test_neither_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer.json nor tokenizer.model"):
        tokenizer_metadata(tmp_path)
