"""Each named pre-tokenizer compiles, loses nothing, and cuts where its family says."""

from __future__ import annotations

import pytest

from tektra.errors import TokenizerError
from tektra.tokenizer.byte_level import byte_level_bytes
from tektra.tokenizer.pretokenizers import (
    PRE_TOKENIZERS,
    build_pre_tokenizer,
    find_pre_tokenizer,
)


def pieces(name: str, text: str) -> list[str]:
    cut = build_pre_tokenizer(PRE_TOKENIZERS[name]).pre_tokenize_str(text)
    return [byte_level_bytes(piece).decode("utf-8", "replace") for piece, _ in cut]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_nothing_is_lost(name: str, texts: list[str]) -> None:
    pre_tokenizer = build_pre_tokenizer(PRE_TOKENIZERS[name])
    for text in texts:
        cut = pre_tokenizer.pre_tokenize_str(text)
        assert b"".join(byte_level_bytes(piece) for piece, _ in cut) == text.encode()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gpt-2", "I'm 1234  x", ["I", "'m", " 1234", " ", " x"]),
        ("smollm", "I'm 1234  x", ["I", "'m", " ", "1", "2", "3", "4", " ", " x"]),
        ("llama-bpe", "I'M 1234  x!\n\n", ["I", "'M", " ", "123", "4", " ", " x", "!\n\n"]),
        ("qwen2", "I'M 1234", ["I", "'M", " ", "1", "2", "3", "4"]),
        ("gpt-4o", "getHTTPServer's 1234", ["get", "HTTPServer's", " ", "123", "4"]),
        ("tekken", "getHTTP 12", ["get", "HTTP", " ", "1", "2"]),
        ("deepseek-v3", "ab\u4e2d\u6587 1234", ["ab", "\u4e2d\u6587", " ", "123", "4"]),
        ("deepseek-llm", "ab 12\n", ["ab", " ", "1", "2", "\n"]),
        ("deepseek-coder", "x = 12;\n", ["x", " = ", "1", "2", ";", "\n"]),
        ("falcon", "(a) 12345", ["(", "a", ")", " ", "123", "45"]),
        ("default", "(a) 12345", ["(", "a", ")", " ", "123", "45"]),
        ("kimi-k2", "ab\u4e2d\u6587cd 1234", ["ab", "\u4e2d\u6587", "cd", " ", "123", "4"]),
        ("superbpe", "1234567", ["1", "234", "567"]),
        ("afmoe", "1234567", ["1", "234", "567"]),
        ("tiny_aya", "1234567 a", ["1", "234", "567", " a"]),
        ("bloom", "Hello, world.", ["Hello", ",", " world", "."]),
        ("viking", "in 2024.", ["in", " ", "2", "0", "2", "4", "."]),
        ("qwen35", "cafe\u0301 x", ["cafe\u0301", " x"]),
        ("ufakzeka", "Ali'nin", ["Ali", "'nin"]),
    ],
)
def test_where_it_cuts(name: str, text: str, expected: list[str]) -> None:
    assert pieces(name, text) == expected


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre.*'llama-bpee'.*llama-bpe"):
        find_pre_tokenizer("llama-bpee")
