"""Byte-level BPE of the native core against the tokenizers library, token for token."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tokenizer.conftest import bpe_metadata
from tokenizers import Regex, pre_tokenizers

from tektra.formats.gguf import GGUFFile
from tektra.tokenizer import Tokenizer, gguf_bpe, load_from_gguf
from tektra.tokenizer.native_bpe import NativeEncoder, NativeTexts
from tektra.tokenizer.pretokenizers import (
    PRE_TOKENIZERS,
    build_pre_tokenizer,
    native_words,
)

_native = pytest.importorskip("tektra._native")

# One for each way to cut, each way to merge, and normal forms.
PRES = ("gpt-2", "smollm", "dbrx", "llama-bpe", "qwen2", "hunyuan")

# What the expressions distinguish, and what is easily got wrong: line ends, contractions, white
# space and numbers of other scripts, marks, characters of which versions of Unicode differ.
PARTS = st.sampled_from(
    [
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u0085", "\x1c", "\u200b"),
        *("'", "''", "'s", "'S", "'re", "'LL", "'ll", "'\u017f", "n't", "I'm", "'ve"),
        *("a", "B", "\u00e9", "e\u0301", "\u4e2d\u6587", "\u0915\u094d", "\u01c5", "\u02b0"),
        *("0", "7", "123", "4567", "\u0663", "\u00bd", "\u2167", "\u00b2", "\u3007"),
        *(".", "!!", "-", "_", "\x00", "\x7f", "\U0001f600", "\u200d", "\ufffd", "\U0001d7d8"),
        *("\U00016ff4", "\U00011de0", "\U000e0001", "\U0010ffff", "\u00ad", "\ufeff"),
        *("<|im_start|>", "<|im_end|>", "<|im_", "|>", "def", "return x", "\n\n  "),
    ]
)
TEXTS = st.lists(PARTS | st.characters(exclude_categories=["Cs"]) | st.text("ab' \n1.", max_size=6))
texts_of_parts = TEXTS.map("".join)


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Mapping[str, Any]]:
    with GGUFFile.open(smollm2_path) as file:
        yield file.metadata


@pytest.fixture(scope="module")
def pairs_of_tokenizers(smollm2: Mapping[str, Any]) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """For each pre-tokenizer SmolLM2's vocabulary by the core, and by the library."""
    made = {}
    for pre in PRES:
        metadata = {**smollm2, "tokenizer.ggml.pre": pre}
        native = load_from_gguf(metadata)
        assert isinstance(native._encoder, NativeEncoder)
        library = gguf_bpe._load_by_library(metadata, pre, PRE_TOKENIZERS[pre])
        made[pre] = native, library
    return made


def test_classes_of_all_code_points() -> None:
    """Where the core is sure, all that the library has on board agrees with it."""
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    chunks = [codes[i : i + 8192] for i in range(0, len(codes), 8192)]

    def matches(pattern: str) -> set[int]:
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        return {
            ord(char)
            for chunk in chunks
            for char, _ in split.pre_tokenize_str("".join(map(chr, chunk)))
        }

    digits = pre_tokenizers.Digits(individual_digits=True)
    by_rust = set()
    for chunk in chunks:
        text = "".join(f"x{chr(code)}" for code in chunk) + "x"
        for piece, (start, end) in digits.pre_tokenize_str(text):
            if end - start == 1 and start % 2 == 1:
                by_rust.add(ord(piece))
    letters, numbers, spaces = matches(r"\p{L}"), matches(r"\p{N}"), matches(r"\s")
    unsure = 0
    for code in codes:
        found = _native.char_class(code)
        if found == 4:
            unsure += 1
            continue
        expected = 1 if code in letters else 2 if code in numbers else 3 if code in spaces else 0
        assert found == expected, hex(code)
        assert (code in numbers) == (code in by_rust), hex(code)
    assert unsure < 200


@pytest.mark.parametrize("pre", PRES)
@settings(max_examples=300)
@given(text=texts_of_parts)
@example(text=" \n \n  a  \r\n1 ")
def test_pieces(pre: str, text: str) -> None:
    spec = PRE_TOKENIZERS[pre]
    words = native_words(spec)
    assert words is not None
    cut = build_pre_tokenizer(spec).pre_tokenize_str(text)
    # byte-level text has a character for each byte
    expected = [len(piece) for piece, _ in cut]
    found, left = [], text
    while left:
        length = _native.piece_length(left, words)
        if length == 0:
            assert any(_native.char_class(ord(char)) == 4 for char in left)
            return
        found.append(length)
        left = left.encode()[length:].decode()
    assert found == expected


@pytest.mark.parametrize("pre", PRES)
@settings(max_examples=300)
@given(text=texts_of_parts, parse_special=st.booleans())
def test_tokens(
    pairs_of_tokenizers: dict[str, tuple[Tokenizer, Tokenizer]],
    pre: str,
    text: str,
    parse_special: bool,
) -> None:
    native, library = pairs_of_tokenizers[pre]
    expected = library.encode(text, parse_special=parse_special)
    assert native.encode(text, parse_special=parse_special) == expected


@pytest.mark.parametrize("pre", PRES)
def test_tokens_of_the_corpus(
    pairs_of_tokenizers: dict[str, tuple[Tokenizer, Tokenizer]], pre: str, texts: list[str]
) -> None:
    native, library = pairs_of_tokenizers[pre]
    assert isinstance(native._encoder, NativeEncoder)
    sure = 0
    for text in [*texts, "".join(texts)]:
        expected = library.encode(text)
        assert native.encode(text) == expected
        sure += native._encoder._encode(text, parse_special=True) == expected
    assert sure > len(texts) // 2


@pytest.mark.parametrize("text", ["a" * 20_000, " " * 20_000, "ab" * 9999, "1" * 9999, "'" * 9999])
def test_long_pieces(
    pairs_of_tokenizers: dict[str, tuple[Tokenizer, Tokenizer]], text: str
) -> None:
    for native, library in pairs_of_tokenizers.values():
        assert native.encode(text) == library.encode(text)


def test_trained_vocabularies(goldens: dict[str, dict[str, Any]], texts: list[str]) -> None:
    """Vocabularies that were made by training on a few texts, without their added words."""
    tried = 0
    for name, golden in goldens.items():
        if not name.startswith("bpe_"):
            continue
        metadata = bpe_metadata(golden)
        types = [1 if kind == 4 else kind for kind in metadata["tokenizer.ggml.token_type"]]
        metadata["tokenizer.ggml.token_type"] = types
        pre = golden["pre"]
        native = load_from_gguf(metadata)
        if native_words(PRE_TOKENIZERS[pre]) is None:
            assert not isinstance(native._encoder, NativeEncoder)
            continue
        assert isinstance(native._encoder, NativeEncoder)
        library = gguf_bpe._load_by_library(metadata, pre, PRE_TOKENIZERS[pre])
        for text in texts:
            assert native.encode(text) == library.encode(text)
            assert native.encode(text, parse_special=False) == library.encode(
                text, parse_special=False
            )
        tried += 1
    assert tried >= 4


def test_the_vocabulary_is_the_same(
    pairs_of_tokenizers: dict[str, tuple[Tokenizer, Tokenizer]],
) -> None:
    native, library = pairs_of_tokenizers["smollm"]
    assert native.special == library.special
    assert native.special_texts == library.special_texts
    assert list(native._texts) == list(library._texts)
    assert all(native.token_bytes(i) == library.token_bytes(i) for i in range(native.vocab_size))
    assert isinstance(native._texts, NativeTexts)
    assert native._texts[-1] == library._texts[-1]
    assert native._texts[2:9:3] == library._texts[2:9:3]
    with pytest.raises(IndexError):
        native._texts[native.vocab_size]


def strings(*values: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = b"".join(struct.pack("<Q", len(value)) + value for value in values)
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize(
    ("tokens", "merges", "reason"),
    [
        ((b"a", b"b", b"a"), (), "twice"),
        ((b"a", b"\xff"), (), "UTF-8"),
        ((b"a", b"\xed\xa0\x80"), (), "UTF-8"),
        ((b"a", b"\xc0\x80"), (), "UTF-8"),
        ((b"a" * 20_000,), (), "too long"),
        ((b"a", b"b", b"ab"), (b"a b", b"a b"), "twice"),
        ((b"a", b"b"), (b"a b",), "no token"),
        ((b"a", b"b", b"ab"), (b"a  b",), "not two"),
        ((b"a", b"b", b"ab"), (b"ab",), "not two"),
        ((b"a", b"b", b"ab"), (b" ab",), "no token"),
        ((b"a",), (b"",), "not two"),
    ],
)
def test_what_is_not_taken_on(
    tokens: tuple[bytes, ...], merges: tuple[bytes, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        _native.BytePairs(strings(*tokens), len(tokens), strings(*merges), len(merges), 0, False)


@settings(max_examples=200)
@given(data=st.binary(max_size=80), count=st.integers(0, 2**40), words=st.integers(-3, 9))
def test_arrays_of_anything(data: bytes, count: int, words: int) -> None:
    array = np.frombuffer(data, np.uint8)
    try:
        made = _native.BytePairs(array, count, array, 0, words, False)
    except ValueError:
        return
    assert len(made) == count
    with pytest.raises(IndexError):
        made.token(count)


def test_bytes_without_a_token() -> None:
    made = _native.BytePairs(strings(b"a", b"b", b"ab"), 3, strings(b"a b"), 1, 0, False)
    assert made.encode("abba") == [2, 1, 0]
    assert made.encode("abc") is None
    assert (made.id_of("ab"), made.id_of("c"), made.id_of("")) == (2, -1, -1)
