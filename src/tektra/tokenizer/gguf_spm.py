"""SentencePiece-style BPE tokenizers from GGUF metadata (`tokenizer.ggml.model` = "llama").

Turns the file's tokens and scores into pieces. It knows the metadata keys; how pieces are
merged is in `spm_encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tektra.errors import TokenizerError
from tektra.tokenizer.base import LeadingSpace, Tokenizer
from tektra.tokenizer.gguf_vocab import GGUFVocab, finite_scores, optional_bool, optional_str
from tektra.tokenizer.spm_encoder import SPACE, SPMEncoder

__all__ = ["load_gguf_spm", "spm_piece_bytes"]

_PREFIX: Final = "tokenizer.ggml."
_UNKNOWN_SURFACE: Final = " \u2047 ".encode()  # what sentencepiece writes for it
_DEFAULT_IDS: Final[Mapping[str, int]] = {"bos": 1, "eos": 2, "unk": 0}


def load_gguf_spm(metadata: Mapping[str, Any]) -> Tokenizer:
    """A SentencePiece-style BPE tokenizer.

    Special tokens are looked for in the text as it is, and a space goes before the text and
    before what follows a special token, as llama.cpp and the models' own code have it.

    Raises:
        TokenizerError: a value is missing, malformed or not supported.
    """
    vocab = GGUFVocab.read(metadata, default_ids=_DEFAULT_IDS, default_add_bos=True)
    texts = vocab.texts
    scores = finite_scores(metadata, len(texts))
    if metadata.get(f"{_PREFIX}precompiled_charsmap") is not None:
        raise TokenizerError(
            f"{_PREFIX}precompiled_charsmap: SentencePiece normalization tables are not "
            "supported yet for this kind of tokenizer"
        )
    byte_ids = _byte_ids(vocab)
    apart = vocab.special.special_ids | set(byte_ids or ())
    pieces = dict(zip(texts, zip(range(len(texts)), scores, strict=True), strict=True))
    for token_id in apart:
        pieces.pop(texts[token_id], None)
    pieces.pop("", None)
    space_prefix = optional_bool(metadata, f"{_PREFIX}add_space_prefix", True)
    strip_spaces = optional_bool(metadata, f"{_PREFIX}remove_extra_whitespaces", False)
    encoder = SPMEncoder(
        pieces,
        special={texts[i]: i for i in vocab.special.special_ids},
        user_defined=vocab.user_defined,
        unused=frozenset(texts[i] for i in vocab.unused_ids),
        byte_ids=byte_ids,
        unk_id=vocab.special.unk_id,
        space_prefix=space_prefix,
        strip_spaces=strip_spaces,
    )
    values = {token_id: bytes([byte]) for byte, token_id in enumerate(byte_ids or ())}
    special_ids, unk_id = vocab.special.special_ids, vocab.special.unk_id

    def to_bytes(token_id: int) -> bytes:
        if token_id == unk_id:
            return _UNKNOWN_SURFACE
        if token_id in special_ids:
            return texts[token_id].encode("utf-8")
        return values.get(token_id) or spm_piece_bytes(texts[token_id])

    leading: LeadingSpace = "strip all" if strip_spaces else "strip one"
    return Tokenizer(
        kind="spm",
        pre=optional_str(metadata, f"{_PREFIX}pre") or "default",
        texts=texts,
        to_bytes=to_bytes,
        encoder=encoder,
        special=vocab.special,
        leading_space=leading if space_prefix or strip_spaces else "keep",
    )


def spm_piece_bytes(text: str) -> bytes:
    """Bytes that a SentencePiece piece stands for, which is not a byte by itself."""
    return text.replace(SPACE, " ").encode("utf-8")


def _byte_ids(vocab: GGUFVocab) -> tuple[int, ...] | None:
    """Ids of the pieces of the 256 bytes; `None` where the vocabulary has none.

    Raises:
        TokenizerError: some bytes have a piece and others have none.
    """
    ids = tuple(vocab.ids.get(f"<0x{byte:02X}>", -1) for byte in range(256))
    # Without types every such text counts; with them, those that are marked as bytes.
    known = [i for i in ids if i >= 0 and (not vocab.has_types or i in vocab.byte_ids)]
    strange = vocab.byte_ids - set(ids)
    if strange:
        text = vocab.texts[min(strange)]
        raise TokenizerError(f"{_PREFIX}tokens[{min(strange)}]: {text!r} is marked as a byte")
    if not known:
        return None
    if len(known) != 256:
        missing = next(b for b, i in enumerate(ids) if i not in known)
        raise TokenizerError(f"{_PREFIX}tokens: no token for the byte <0x{missing:02X}>")
    return ids
