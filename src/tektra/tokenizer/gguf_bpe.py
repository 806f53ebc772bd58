"""Byte-level BPE tokenizers from GGUF metadata (`tokenizer.ggml.model` = "gpt2").

Turns the file's tokens and merges into a vocabulary of the native core, or a model of the
tokenizers library. It knows the metadata keys; how a family cuts text before merging is in
`pretokenizers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tektra.errors import TokenizerError
from tektra.tokenizer.base import TextEncoder, Tokenizer
from tektra.tokenizer.byte_level import byte_level_bytes
from tektra.tokenizer.gguf_vocab import GGUFVocab, optional_list, optional_str
from tektra.tokenizer.native_bpe import NativeEncoder, NativeTexts, build_byte_pairs
from tektra.tokenizer.pretokenizers import (
    PreTokenizerSpec,
    build_pre_tokenizer,
    find_pre_tokenizer,
)

__all__ = ["load_gguf_bpe"]

_TOKENS: Final = "tokenizer.ggml.tokens"
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
    return _load_native(metadata, pre, spec) or _load_by_library(metadata, pre, spec)


def _load_native(metadata: Mapping[str, Any], pre: str, spec: PreTokenizerSpec) -> Tokenizer | None:
    """The tokenizer by the native core, None where that does not take it on."""
    tokens, merges = metadata.get(_TOKENS), metadata.get(_MERGES)
    pairs = None
    if isinstance(tokens, Sequence) and isinstance(merges, Sequence):
        pairs = build_byte_pairs(tokens, merges, spec)
    if pairs is None:
        return None
    texts = NativeTexts(pairs)
    vocab = GGUFVocab.read(
        metadata,
        default_ids=_DEFAULT_IDS,
        default_add_bos=spec.add_bos,
        known=(texts, pairs.id_of),
    )
    if vocab.user_defined:
        return None
    special = {texts[i]: i for i in sorted(vocab.special.special_ids) if texts[i]}

    # What the library may need later is copied: a loaded model must not keep its file mapped.
    kept = {
        key: value.detached() if hasattr(value, "detached") else value
        for key, value in metadata.items()
        if key.startswith("tokenizer.")
    }

    def library() -> TextEncoder:
        return _library_encoder(kept, spec)[0]

    encoder = NativeEncoder(pairs, special, nfc=spec.nfc, library=library)
    return _tokenizer(pre, vocab, encoder)


def _load_by_library(metadata: Mapping[str, Any], pre: str, spec: PreTokenizerSpec) -> Tokenizer:
    encoder, vocab = _library_encoder(metadata, spec)
    return _tokenizer(pre, vocab, encoder)


def _tokenizer(pre: str, vocab: GGUFVocab, encoder: TextEncoder) -> Tokenizer:
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
        encoder=encoder,
        special=vocab.special,
    )


def _library_encoder(
    metadata: Mapping[str, Any], spec: PreTokenizerSpec
) -> tuple[TextEncoder, GGUFVocab]:
    """An encoder of the tokenizers library, and the vocabulary as it was read for it."""
    import tokenizers  # here, because most loads do without
    from tokenizers import AddedToken, models, normalizers

    from tektra.tokenizer.library import LibraryEncoder, is_library_fault

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

    def added(text: str, *, special: bool) -> AddedToken:
        return AddedToken(text, special=special, normalized=False)

    special = sorted(vocab.special.special_ids)
    tokenizer.add_special_tokens(
        [added(vocab.texts[i], special=True) for i in special if vocab.texts[i]]
    )
    tokenizer.add_tokens([added(text, special=False) for text in vocab.user_defined])
    return LibraryEncoder(tokenizer, vocab.special.special_ids), vocab


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
