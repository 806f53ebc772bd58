"""Byte-level BPE tokenizers from GGUF metadata (`tokenizer.ggml.model` = "gpt2").

Turns the file's tokens and merges into a model of the tokenizers library. It knows the
metadata keys; how a family cuts text before merging is in `pretokenizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, models, normalizers

from tektra.errors import TokenizerError
from tektra.tokenizer.base import Tokenizer
from tektra.tokenizer.byte_level import byte_level_bytes
from tektra.tokenizer.gguf_vocab import GGUFVocab, optional_list, optional_str
from tektra.tokenizer.library import LibraryEncoder, is_library_fault
from tektra.tokenizer.pretokenizers import build_pre_tokenizer, find_pre_tokenizer

__all__ = ["load_gguf_bpe"]

_MERGES: Final = "tokenizer.ggml.merges"
_PRE: Final = "tokenizer.ggml.pre"
# GPT-2 files of before the ids were written down have <|endoftext|> there.
_DEFAULT_IDS: Final[Mapping[str, int]] = {"bos": 11, "eos": 11}


def load_gguf_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    """A byte-level BPE tokenizer.

    Raises:
        TokenizerError: a value is missing, malformed or unknown.
    """
    pre = optional_str(metadata, _PRE) or "default"
    spec = find_pre_tokenizer(pre)
    vocab = GGUFVocab.read(metadata, default_ids=_DEFAULT_IDS, default_add_bos=spec.add_bos)
    merges = _merges(metadata)
    # The library panics on merges that are longer than all tokens, and says so on stderr.
    if not all(map(vocab.ids.__contains__, map("".join, merges))):
        raise _merge_error(merges, vocab.ids)
    try:
        model = models.BPE(vocab=vocab.ids, merges=merges, ignore_merges=spec.ignore_merges)
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise _merge_error(merges, vocab.ids, error) from error
    tokenizer = tokenizers.Tokenizer(model)
    if spec.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = build_pre_tokenizer(spec)
    special = sorted(vocab.special.special_ids)
    tokenizer.add_special_tokens(
        [_added(vocab.texts[i], special=True) for i in special if vocab.texts[i]]
    )
    tokenizer.add_tokens([_added(text, special=False) for text in vocab.user_defined])

    # Added tokens are written as they read, the others in the byte-level alphabet.
    as_written = vocab.special.special_ids | frozenset(vocab.user_defined.values())
    texts = vocab.texts

    def to_bytes(token_id: int) -> bytes:
        text = texts[token_id]
        return text.encode("utf-8") if token_id in as_written else byte_level_bytes(text)

    return Tokenizer(
        kind="bpe",
        pre=pre,
        texts=texts,
        to_bytes=to_bytes,
        encoder=LibraryEncoder(tokenizer, vocab.special.special_ids),
        special=vocab.special,
    )


def _added(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, special=special, normalized=False)


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges: list[str] | None = optional_list(metadata, _MERGES, str, "strings")
    if merges is None:
        raise TokenizerError(
            f"{_MERGES}: the merges are missing",
            remedy="the file was converted wrongly: get another conversion of the model",
        )
    # Joined and split as one string: a loop over half a million merges takes a second.
    parts = " ".join(merges).split(" ") if merges else []
    if len(parts) != 2 * len(merges) or "" in parts:
        wrong = next(
            i for i, m in enumerate(merges) if len(m.split(" ")) != 2 or "" in m.split(" ")
        )
        raise TokenizerError(f"{_MERGES}[{wrong}]: {merges[wrong][:60]!r} is not two tokens")
    halves = iter(parts)
    return list(zip(halves, halves, strict=True))


def _merge_error(
    merges: list[tuple[str, str]], ids: Mapping[str, int], error: BaseException | None = None
) -> TokenizerError:
    """What is wrong with the merges, with the place, which the library does not say."""
    for i, (left, right) in enumerate(merges):
        for part in (left, right, left + right):
            if part not in ids:
                return TokenizerError(
                    f"{_MERGES}[{i}]: {part[:60]!r} is not in the vocabulary",
                    remedy="the file is damaged or was converted wrongly: get it again",
                )
    return TokenizerError(f"{_MERGES}: {str(error)[:200]!a}")
