"""A5: every scalar of the metadata set to every bad value, and tokenizers that make no sense.

Through the whole way: what is refused is refused at load and names the key, and what is accepted
answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.robustness.model_files import MISSING, SPM_TOKENS, rewrite, spm_metadata

from tektra import LLM
from tektra.errors import TektraError, TemplateError, TokenizerError
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import GGUFArray, Typed

VALUES: dict[str, Any] = {
    "0": Typed(0, "u32"),
    "-1": Typed(-1, "i32"),
    "2^31-1": Typed(2**31 - 1, "u32"),
    "2^32-1": Typed(2**32 - 1, "u32"),
    "2^64-1": Typed(2**64 - 1, "u64"),
    "-2^63": Typed(-(2**63), "i64"),
    "NaN": Typed(math.nan, "f32"),
    "infinity": Typed(math.inf, "f64"),
    "-1.0": Typed(-1.0, "f32"),
    "1e300": Typed(1e300, "f64"),
    "1e-40": Typed(1e-40, "f32"),
    "true": True,
    "text": "seven",
    "nothing": Typed([], "u32"),
    "list": Typed([1, 2, 3], "i32"),
    "missing": MISSING,
}
# Keys that say nothing of how the model is computed.
FREE = {"general.name"}
# What the chat needs; the rest works without it.
CHAT = "tokenizer.chat_template"


def answer(path: Path) -> None:
    with LLM(path, device="cpu", threads=1, context=128, max_batch=1, max_rows=32) as llm:
        assert llm.generate("hello <s>", max_tokens=2).completion_tokens >= 1
        llm.chat([{"role": "user", "content": "hello"}], max_tokens=1)


def scalars(path: Path) -> list[str]:
    with GGUFFile.open(path) as file:
        found = [key for key, value in file.metadata.items() if not isinstance(value, GGUFArray)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("name", ["tiny", "full"])
@pytest.mark.parametrize("value", VALUES)
def test_each_scalar(name: str, value: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    sound: Path = request.getfixturevalue(name)
    accepted: list[str] = []
    refused: dict[str, str] = {}
    for key in scalars(sound):
        path = tmp_path / "bad.gguf"
        if key == "general.alignment":  # the writer refuses it; the parser's tests craft it
            continue
        try:
            answer(rewrite(sound, path, {key: VALUES[value]}))
            accepted.append(key)
        except TektraError as error:
            refused[key] = str(error)
    if value == "missing":
        assert "no chat template" in refused.pop(CHAT, "no chat template")
    for key, message in refused.items():
        assert key in message
        assert message.isprintable()
    assert FREE.issubset(accepted)
    # All that a model cannot be without; most are numbers, for which hardly any of these will do.
    needed = {"general.architecture", "llama.block_count", "tokenizer.ggml.model"}
    assert needed <= refused.keys()


COUNT = len(SPM_TOKENS)
SPM = spm_metadata()


def tokens(**changes: str) -> list[str]:
    changed = list(SPM_TOKENS)
    for at, text in changes.items():
        changed[int(at.removeprefix("at"))] = text
    return changed


SPM_VALUES: dict[str, tuple[Mapping[str, Any], str]] = {
    "no tokens": ({"tokens": Typed([], "str")}, "tokens"),
    "tokens are numbers": ({"tokens": Typed([1, 2], "i32")}, "tokens"),
    "a token twice": ({"tokens": tokens(at260="\u2581")}, r"tokens\[260\].*twice"),
    "more tokens than embeddings": (
        {
            "tokens": [f"t{i}" for i in range(289)],
            "scores": Typed([0.0] * 289, "f32"),
            "token_type": Typed([1] * 289, "i32"),
        },
        "289 tokens.*288",
    ),
    "token_type too short": ({"token_type": Typed([1] * (COUNT - 1), "i32")}, "token_type"),
    "token_type too long": ({"token_type": Typed([1] * (COUNT + 1), "i32")}, "token_type"),
    "token_type unknown": ({"token_type": Typed([7] * COUNT, "i32")}, "token_type.*7 is no type"),
    "token_type negative": ({"token_type": Typed([-1] * COUNT, "i32")}, "token_type"),
    "scores too short": ({"scores": Typed([0.0] * (COUNT - 1), "f32")}, "scores"),
    "scores NaN": ({"scores": Typed([math.nan] * COUNT, "f32")}, r"scores\[0\]"),
    "scores missing": ({"scores": MISSING}, "scores"),
    "a byte missing": ({"tokens": tokens(at13="<0xGG>")}, "tokens.*byte"),
    "not UTF-8": ({"tokens": tokens(at260="\udcff")}, r"tokens\[260\]: '\\udcff' is not UTF-8"),
    "bos out of the vocabulary": ({"bos_token_id": Typed(COUNT, "u32")}, "bos_token_id"),
    "unk out of the vocabulary": ({"unknown_token_id": Typed(COUNT, "u32")}, "unknown_token_id"),
}


@pytest.mark.parametrize("case", SPM_VALUES)
def test_sentencepiece_tokenizers(case: str, full: Path, tmp_path: Path) -> None:
    changes, message = SPM_VALUES[case]
    keys = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(TokenizerError, match=message):
        answer(rewrite(full, tmp_path / "bad.gguf", keys))


BPE_VALUES: dict[str, tuple[Mapping[str, Any], str]] = {
    "merges of unknown tokens": (
        {"merges": ["h e", "q z"]},
        r"merges\[1\]: 'qz' is not in the vocabulary",
    ),
    "merges of unknown halves": ({"merges": ["h e", "hi ho"]}, r"merges\[1\]: 'hi'"),
    "merges longer than all tokens": (
        {"merges": ["h e", "<|endoftext|> <|endoftext|>"]},
        r"merges\[1\]: '<\|endoftext\|><\|endoftext\|>' is not in the vocabulary",
    ),
    "merges without a space": ({"merges": ["he"]}, r"merges\[0\]"),
    "merges that are numbers": ({"merges": Typed([1], "i32")}, "merges"),
    "merges not UTF-8": ({"merges": ["\udc80 h"]}, r"merges\[0\].*not UTF-8"),
    "no merges": ({"merges": MISSING}, "merges"),
    "no such pre-tokenizer": ({"pre": "smo\udc80"}, r"'smo\\udc80' is not known"),
    "no such kind": ({"model": "gpt\n3"}, "unknown kind"),
}


@pytest.mark.parametrize("case", BPE_VALUES)
def test_byte_level_tokenizers(case: str, tiny: Path, tmp_path: Path) -> None:
    changes, message = BPE_VALUES[case]
    keys = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(TokenizerError, match=message) as caught:
        answer(rewrite(tiny, tmp_path / "bad.gguf", keys))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [1, 3, 4], ids=["normal", "control", "user defined"])
@pytest.mark.parametrize(
    ("count", "length", "message"),
    [
        (1, 10_000_000, r"tokens\[\d+\]: the token has 10000000 characters"),
        (1, 16_384, None),
        (70, 15_000, None),
    ],
    ids=["one of 10 MB", "one of 16 KiB", "70 of 15 kB"],
)
@pytest.mark.parametrize("name", ["tiny", "full"])
def test_long_tokens(
    name: str,
    count: int,
    length: int,
    message: str | None,
    kind: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    sound: Path = request.getfixturevalue(name)
    with GGUFFile.open(sound) as file:
        texts = list(file.metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
        types = list(file.metadata["tokenizer.ggml.token_type"])  # type: ignore[arg-type]
    # In the place of tokens that nothing here needs: the embedding table has few rows to spare.
    for at in range(len(texts) - count - 12, len(texts) - 12):
        texts[at], types[at] = f"{at:03}".ljust(length, "h"), kind
    changes: dict[str, Any] = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": Typed(types, "i32"),
    }
    if name == "full":  # without the pieces of some bytes it must be without those of all
        texts[3:259] = [text.replace("<0x", "<0y") for text in texts[3:259]]
        types[3:259] = [1 if of == 6 else of for of in types[3:259]]
    if count > 1 and kind != 1:
        message = "token_type: the special and user-defined tokens have 10500"
    bad = rewrite(sound, tmp_path / "big.gguf", changes)
    if message is None:
        answer(bad)
        return
    with pytest.raises(TokenizerError, match=message):
        answer(bad)


def test_text_that_is_not_text(tiny: Path, tmp_path: Path) -> None:
    path = rewrite(tiny, tmp_path / "bad.gguf", {CHAT: "{{ messages }}\udcff"})
    with pytest.raises(TemplateError, match=rf"{CHAT}: .*not UTF-8"):
        answer(path)
    path = rewrite(tiny, tmp_path / "bad.gguf", {"general.architecture": "llama\udcff\n"})
    with pytest.raises(TektraError, match=r"general\.architecture") as caught:
        answer(path)
    assert str(caught.value).isprintable()
    # A name is only shown.
    answer(rewrite(tiny, tmp_path / "named.gguf", {"general.name": "\udcff\x1b[31m"}))


def test_layers_that_differ(tiny: Path, tmp_path: Path) -> None:
    for value in ([4, 4], [4, 8], [4], [4, 4, 4], [0, 4]):
        path = rewrite(
            tiny, tmp_path / "bad.gguf", {"llama.attention.head_count": Typed(value, "u32")}
        )
        if value == [4, 4]:
            answer(path)
            continue
        with pytest.raises(TektraError, match=r"llama\.attention\.head_count"):
            answer(path)
