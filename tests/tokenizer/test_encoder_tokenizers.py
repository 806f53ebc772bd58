"""The tokenizers of encoders: WordPiece against its definition, unigram against sentencepiece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tektra.errors import TokenizerError
from tektra.tokenizer import load_from_gguf, load_from_json

GOLDENS = Path(__file__).parents[1] / "goldens" / "tokenizer"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["hello", "world", "cafe", "un", "the", ",", "!", "日", "本", "a", "b", "x"]
PARTS = ["##aff", "##able", "##ing", "##s", "##a", "##b", "##x"]


def wordpiece_metadata(**more: Any) -> dict[str, Any]:
    """As llama.cpp's converter writes it: with a mark before what begins a word."""
    tokens = [*SPECIALS, *(f"▁{w}" for w in WORDS), *(p.removeprefix("##") + "" for p in PARTS)]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.token_type_count": 2,
        **more,
    }


def wordpiece_json(lowercase: bool = True) -> bytes:
    """The same as tokenizer.json."""
    vocab = {token: i for i, token in enumerate([*SPECIALS, *WORDS, *PARTS])}

    def special(text: str, type_id: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": type_id}}

    def sequence(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    single = [special("[CLS]"), sequence("A", 0), special("[SEP]")]
    frame = {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [
            {"id": i, "content": t, "special": True, **flags} for i, t in enumerate(SPECIALS)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": frame,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return json.dumps(content).encode()


ALL = [*SPECIALS, *WORDS, *PARTS]
CASES: dict[str, list[str]] = {
    "": [],
    "Hello, World!": ["hello", ",", "world", "!"],
    "  the\tunaffable \n": ["the", "un", "##aff", "##able"],
    "Café CAFÉ cafe\u0301": ["cafe", "cafe", "cafe"],
    "日本a": ["日", "本", "a"],
    "unaffablez": ["[UNK]"],
    "a" * 100: ["a", *["##a"] * 99],
    "a" * 101: ["[UNK]"],
    "a\u200b\u0000b": ["a", "##b"],
    "[CLS] hello[MASK]": ["[CLS]", "hello", "[MASK]"],
}


@pytest.mark.parametrize("form", ["gguf", "json"])
@pytest.mark.parametrize("text", CASES)
def test_wordpiece(text: str, form: str) -> None:
    """The longest piece first, word by word; a word that cannot be spelt is unknown as a whole."""
    tokenizer = (
        load_from_gguf(wordpiece_metadata()) if form == "gguf" else load_from_json(wordpiece_json())
    )
    expected = [ALL.index(token) for token in CASES[text]]
    assert tokenizer.encode(text, add_special=False) == expected
    assert tokenizer.encode(text) == [2, *expected, 3]


@pytest.mark.parametrize("form", ["gguf", "json"])
def test_wordpiece_tells_text_from_special_tokens(form: str) -> None:
    tokenizer = (
        load_from_gguf(wordpiece_metadata()) if form == "gguf" else load_from_json(wordpiece_json())
    )
    assert not {2, 3} & set(
        tokenizer.encode("[CLS] a [SEP]", add_special=False, parse_special=False)
    )
    assert tokenizer.decode([2, 5, 8, 17, 18, 3], skip_special=True) == "hello unaffable"
    pair = tokenizer.special.pair
    assert pair is not None
    assert (pair.prefix_ids, pair.between_ids, pair.suffix_ids) == ((2,), (3,), (3,))
    assert pair.second_segment == 1


def test_capitals_in_the_vocabulary_are_kept() -> None:
    metadata = wordpiece_metadata()
    metadata["tokenizer.ggml.tokens"] = [
        "▁Hello" if t == "▁hello" else t for t in metadata["tokenizer.ggml.tokens"]
    ]
    tokenizer = load_from_gguf(metadata)
    assert tokenizer.encode("Hello hello", add_special=False) == [5, 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cls_token_id", 10_000),
        ("seperator_token_id", -1),
        ("add_bos_token", 3),
        ("add_sep_token", "yes"),
        ("unknown_token_id", 1.5),
    ],
)
def test_wordpiece_names_what_is_wrong(key: str, value: Any) -> None:
    with pytest.raises(TokenizerError, match=key):
        load_from_gguf(wordpiece_metadata(**{f"tokenizer.ggml.{key}": value}))


@pytest.fixture(scope="module")
def unigram() -> dict[str, Any]:
    with np.load(GOLDENS / "unigram.npz") as arrays:
        content: dict[str, Any] = json.loads(arrays["content"].tobytes())
        content["charsmap"] = arrays["charsmap"].tolist()
    return content


def unigram_metadata(golden: dict[str, Any]) -> dict[str, Any]:
    return {**golden["metadata"], "tokenizer.ggml.precompiled_charsmap": golden["charsmap"]}


def test_unigram_like_sentencepiece(unigram: dict[str, Any]) -> None:
    tokenizer = load_from_gguf(unigram_metadata(unigram))
    for text, ids in zip(unigram["texts"], unigram["ids"], strict=True):
        assert tokenizer.encode(text) == ids, text


def test_the_table_of_characters_matters(unigram: dict[str, Any]) -> None:
    tokenizer = load_from_gguf(unigram["metadata"])
    found = [tokenizer.encode(text) for text in unigram["texts"]]
    assert found != unigram["ids"]


def test_unigram_tells_text_from_special_tokens(unigram: dict[str, Any]) -> None:
    tokenizer = load_from_gguf(unigram_metadata(unigram))
    assert tokenizer.encode("<s>", add_special=False) == [0]
    plain = tokenizer.encode("<s> </s>", add_special=False, parse_special=False)
    assert not {0, 2} & set(plain)
    pair = tokenizer.special.pair
    assert pair is not None
    assert pair.between_ids == (2, 2)
    assert pair.second_segment == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precompiled_charsmap", [1, 2, 3]),
        ("precompiled_charsmap", [1000]),
        ("precompiled_charsmap", "text"),
        ("scores", None),
        ("scores", [0.0]),
        ("add_eos_token", 1),
    ],
)
def test_unigram_names_what_is_wrong(key: str, value: Any, unigram: dict[str, Any]) -> None:
    metadata = unigram_metadata(unigram) | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(TokenizerError, match=key):
        load_from_gguf(metadata)
