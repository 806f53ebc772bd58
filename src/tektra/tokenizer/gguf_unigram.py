"""SentencePiece unigram tokenizers from GGUF metadata (`tokenizer.ggml.model` = "t5").

XLM-RoBERTa and T5 have them (Kudo, https://arxiv.org/abs/1804.10959). Knows the metadata keys; the
tokenizers library finds the likeliest pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, final

from tokenizers import (
    AddedToken,
    Regex,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers import (
    Tokenizer as Library,
)

from tektra.errors import TokenizerError
from tektra.tokenizer.base import PairFrame, Tokenizer
from tektra.tokenizer.gguf_spm import spm_piece_bytes
from tektra.tokenizer.gguf_vocab import (
    GGUFVocab,
    finite_scores,
    optional_bool,
    optional_list,
    optional_str,
)
from tektra.tokenizer.library import is_library_fault

__all__ = ["load_gguf_unigram"]

_PREFIX: Final = "tokenizer.ggml."
_DEFAULT_IDS: Final[Mapping[str, int]] = {"eos": 1, "unk": 2, "pad": 0}
_ROBERTA_END: Final = "</s>"


def load_gguf_unigram(metadata: Mapping[str, Any]) -> Tokenizer:
    """A unigram tokenizer.

    Raises:
        TokenizerError: a value is missing or malformed.
    """
    vocab = GGUFVocab.read(metadata, default_ids=_DEFAULT_IDS, default_add_bos=False)
    special, texts = vocab.special, vocab.texts
    add_eos = optional_bool(metadata, f"{_PREFIX}add_eos_token", True)
    if add_eos and special.eos_id is not None:
        special = replace(special, suffix_ids=(special.eos_id,))
    special = replace(special, pair=_pair(metadata, special.prefix_ids, vocab, special.eos_id))
    scores = finite_scores(metadata, len(texts))
    if special.unk_id is None:
        raise TokenizerError(f"{_PREFIX}unknown_token_id: is missing")
    encoder = _Encoder(metadata, vocab, scores, special.unk_id)
    special_ids, unk_id = special.special_ids, special.unk_id
    byte_values = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}

    def to_bytes(token_id: int) -> bytes:
        text = texts[token_id]
        if token_id == unk_id or token_id in special_ids:
            return text.encode("utf-8")
        if token_id in vocab.byte_ids and text in byte_values:
            return byte_values[text]
        return spm_piece_bytes(text)

    return Tokenizer(
        kind="spm",
        pre=optional_str(metadata, f"{_PREFIX}pre") or "default",
        texts=texts,
        to_bytes=to_bytes,
        encoder=encoder,
        special=special,
        leading_space="strip one",
    )


@final
class _Encoder:
    """A `TextEncoder` over two objects of the library: one finds special tokens in texts.

    The other has them under names that no text can have, since a piece is a piece to the model.
    """

    __slots__ = ("_parsing", "_plain")

    def __init__(
        self, metadata: Mapping[str, Any], vocab: GGUFVocab, scores: list[float], unk_id: int
    ) -> None:
        apart = vocab.special.special_ids | vocab.unused_ids
        pieces = list(zip(vocab.texts, scores, strict=True))
        # A lone surrogate cannot be had in Python's UTF-8, a noncharacter in no sensible text.
        hidden = [
            (f"\ufffe{i}\uffff", score) if i in apart else (text, score)
            for i, (text, score) in enumerate(pieces)
        ]
        self._plain = _library(metadata, hidden, unk_id, bool(vocab.byte_ids))
        self._parsing = _library(metadata, pieces, unk_id, bool(vocab.byte_ids))
        self._parsing.add_special_tokens(
            [
                AddedToken(vocab.texts[i], special=True, normalized=False)
                for i in sorted(vocab.special.special_ids)
                if vocab.texts[i]
            ]
        )
        user_defined = [AddedToken(text, normalized=False) for text in vocab.user_defined]
        for library in (self._plain, self._parsing):
            library.add_tokens(user_defined)

    def encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        # `at_start` makes no difference: a space goes before what follows a special token too.
        del at_start
        used = self._parsing if parse_special else self._plain
        ids: list[int] = used.encode(text, add_special_tokens=False).ids
        return ids


def _library(
    metadata: Mapping[str, Any], pieces: list[tuple[str, float]], unk_id: int, bytes_: bool
) -> Library:
    try:
        library = Library(models.Unigram(pieces, unk_id, bytes_))
        steps = _normalizer(metadata)
        if steps is not None:
            library.normalizer = steps
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise TokenizerError(f"{_PREFIX}tokens: {error}") from error
    prefix = optional_bool(metadata, f"{_PREFIX}add_space_prefix", True)
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    library.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
        if prefix
        else metaspace
    )
    return library


def _normalizer(metadata: Mapping[str, Any]) -> normalizers.Normalizer | None:
    key = f"{_PREFIX}precompiled_charsmap"
    steps: list[normalizers.Normalizer] = []
    table = optional_list(metadata, key, int, "bytes")
    if table:
        if any(not -128 <= byte < 256 for byte in table):
            raise TokenizerError(f"{key}: is not a list of bytes")
        try:
            steps.append(normalizers.Precompiled(bytes(byte & 0xFF for byte in table)))
        except BaseException as error:
            if not is_library_fault(error):
                raise
            raise TokenizerError(f"{key}: {error}") from error
    if optional_bool(metadata, f"{_PREFIX}remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps) if steps else None


def _pair(
    metadata: Mapping[str, Any], prefix: tuple[int, ...], vocab: GGUFVocab, eos: int | None
) -> PairFrame | None:
    """Two ends stand between texts in the RoBERTa family, whose end is that of RoBERTa."""
    if eos is None or not prefix:
        return None
    double = vocab.texts[eos] == _ROBERTA_END
    return PairFrame(prefix, (eos, eos) if double else (eos,), (eos,))
