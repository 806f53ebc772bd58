"""Wrong values in a file's metadata end in an error that names the key; silent files load."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tektra.errors import InvalidParameterError, TokenizerError
from tektra.tokenizer import load_from_gguf, load_from_json

Metadata = dict[str, dict[str, Any]]

BPE, SPM = "bpe_smollm", "spm_llama"
REMOVED = object()


def changed(metadata: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    copy = {k: list(v) if isinstance(v, list) else v for k, v in metadata.items()}
    if value is REMOVED:
        copy.pop(key)
    else:
        copy[key] = value(copy.get(key)) if callable(value) else value
    return copy


def with_item(at: int, item: Any) -> Any:
    return lambda items: [*items[:at], item, *items[at + 1 :]]


@pytest.mark.parametrize("base", [BPE, SPM])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", REMOVED),
        ("model", 3),
        ("model", "none"),
        ("model", "rwkv"),
        ("model", "plamo2"),
        ("model", "nonsense"),
        ("tokens", REMOVED),
        ("tokens", []),
        ("tokens", "text"),
        ("tokens", 5),
        ("tokens", with_item(7, 7)),
        ("tokens", lambda tokens: [*tokens[:-1], tokens[270]]),
        ("token_type", [1, 2, 3]),
        ("token_type", with_item(5, 99)),
        ("token_type", with_item(5, -1)),
        ("token_type", with_item(5, "1")),
        *(
            (f"{name}_token_id", value)
            for name in ("bos", "eos", "eot", "eom", "padding", "unknown")
            for value in (-1, 2**31 - 1, 100_000, 1.5, "1", True, math.nan)
        ),
        ("add_bos_token", 1),
        ("add_eos_token", "yes"),
    ],
)
def test_the_key_is_named(base: str, key: str, value: Any, metadata: Metadata) -> None:
    full = f"tokenizer.ggml.{key}"
    with pytest.raises(TokenizerError, match=full.replace(".", r"\.")):
        load_from_gguf(changed(metadata[base], full, value))


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (BPE, "merges", REMOVED),
        (BPE, "merges", 3),
        (BPE, "merges", with_item(4, "one")),
        (BPE, "merges", with_item(4, "a b c")),
        (BPE, "merges", with_item(4, "notthere neither")),
        (BPE, "merges", with_item(4, 4)),
        (BPE, "pre", "nonsense"),
        (BPE, "pre", 4),
        (SPM, "scores", REMOVED),
        (SPM, "scores", [1.0]),
        (SPM, "scores", with_item(4, math.nan)),
        (SPM, "scores", with_item(4, "high")),
        (SPM, "add_space_prefix", 1),
        (SPM, "remove_extra_whitespaces", 0),
        (SPM, "precompiled_charsmap", [0, 1]),
        (SPM, "token_type", with_item(10, 1)),
    ],
)
def test_the_key_of_a_kind_is_named(base: str, key: str, value: Any, metadata: Metadata) -> None:
    full = f"tokenizer.ggml.{key}"
    named = "tokens" if key == "token_type" else key
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{named}"):
        load_from_gguf(changed(metadata[base], full, value))


def test_add_bos_without_a_bos_is_refused(metadata: Metadata) -> None:
    short = changed(metadata[BPE], "tokenizer.ggml.bos_token_id", REMOVED)
    short = {k: v[:5] if isinstance(v, list) else v for k, v in short.items()}
    short |= {"tokenizer.ggml.merges": [], "tokenizer.ggml.eos_token_id": 2}
    assert load_from_gguf(short).bos_id is None
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.add_bos_token"):
        load_from_gguf(short | {"tokenizer.ggml.add_bos_token": True})


def test_what_silent_files_mean(metadata: Metadata) -> None:
    spm = {k: v for k, v in metadata[SPM].items() if not k.endswith(("token_id", "token_type"))}
    tokenizer = load_from_gguf(spm)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    assert tokenizer.add_bos
    assert not tokenizer.add_eos
    assert tokenizer.encode("Hi") == load_from_gguf(metadata[SPM]).encode("Hi")
    llama = changed(metadata[BPE], "tokenizer.ggml.pre", "llama-bpe")
    assert load_from_gguf(llama).add_bos
    assert not load_from_gguf(metadata[BPE]).add_bos
    assert not load_from_gguf(llama | {"tokenizer.ggml.add_bos_token": False}).add_bos


def test_lazy_sequences_are_read(metadata: Metadata) -> None:
    class Lazy:
        def __init__(self, items: list[Any]) -> None:
            self.items = items

        def tolist(self) -> list[Any]:
            return self.items

    lazy = {k: Lazy(v) if isinstance(v, list) else v for k, v in metadata[BPE].items()}
    text = "Some text, 123."
    assert load_from_gguf(lazy).encode(text) == load_from_gguf(metadata[BPE]).encode(text)


def test_ends_of_turns_that_are_marked_as_text_are_still_control(metadata: Metadata) -> None:
    tokens = metadata[BPE]["tokenizer.ggml.tokens"]
    end = tokens.index("<|im_end|>")
    tokenizer = load_from_gguf(
        changed(metadata[BPE], "tokenizer.ggml.token_type", with_item(end, 4))
    )
    assert end in tokenizer.special_ids
    assert end in tokenizer.eos_ids
    assert end not in tokenizer.encode("<|im_end|>", parse_special=False)


def test_ids_outside_of_the_vocabulary_are_refused(metadata: Metadata) -> None:
    tokenizer = load_from_gguf(metadata[BPE])
    for token_id in (-1, tokenizer.vocab_size):
        with pytest.raises(InvalidParameterError, match="token id"):
            tokenizer.decode([token_id])
    with pytest.raises(InvalidParameterError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (b"", {}, r"tokenizer\.json"),
        (b"{}", {}, r"tokenizer\.json"),
        (b'{"model": {"type": "WordPiece"}}', {}, r"tokenizer\.json"),
        (None, {"bos_token": "<absent>"}, r"bos_token.*<absent>"),
        (None, {"eos_token": 3}, r"eos_token"),
        (None, {"bos_token": "<|bos|>", "add_bos_token": "yes"}, r"add_bos_token"),
    ],
)
def test_a_wrong_tokenizer_json_is_refused(
    content: bytes | None, config: dict[str, Any], message: str, goldens: Metadata
) -> None:
    good = json.dumps(goldens[BPE]["tokenizer_json"]).encode()
    with pytest.raises(TokenizerError, match=message):
        load_from_json(good if content is None else content, config)


def test_a_missing_tokenizer_json_is_refused() -> None:
    with pytest.raises(TokenizerError, match="No such file"):
        load_from_json("/nonexistent/tokenizer.json")
