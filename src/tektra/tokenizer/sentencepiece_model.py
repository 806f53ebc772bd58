"""Reads `tokenizer.model`, the file of SentencePiece, as the metadata that a GGUF file has of it.

A small reader of the protocol buffer that it is: every length is held against what is left, and
fields that no tokenizer here needs are stepped over. How text is cut is the business of others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from tektra.errors import TokenizerError
from tektra.tokenizer.base import Tokenizer
from tektra.tokenizer.load import load_from_gguf

__all__ = ["load_from_sentencepiece", "sentencepiece_metadata"]

_PREFIX: Final = "tokenizer.ggml."
_UNIGRAM, _BPE = 1, 2
_CONTROL, _USER_DEFINED = 3, 4
_MAX_PIECES = 1 << 22
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Field = tuple[int, int | bytes]


def load_from_sentencepiece(
    data: bytes,
    config: Mapping[str, Any] | None = None,
    *,
    end_ids: frozenset[int] = frozenset(),
) -> Tokenizer:
    """The tokenizer in a `tokenizer.model`.

    Args:
        data: content of the file.
        config: content of the `tokenizer_config.json` beside it: special tokens, tokens added to
            the vocabulary, and whether the beginning and end of sequence are put round a text.
        end_ids: tokens that end a generation besides; what is beyond the vocabulary does not count.

    Raises:
        TokenizerError: the file is malformed, or of a kind that is not supported.
    """
    tokenizer = load_from_gguf(sentencepiece_metadata(data, config))
    known = frozenset(i for i in end_ids if i < tokenizer.vocab_size)
    special = tokenizer.special
    tokenizer.special = replace(
        special, eos_ids=special.eos_ids | known, special_ids=special.special_ids | known
    )
    return tokenizer


def sentencepiece_metadata(data: bytes, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is in a `tokenizer.model`, by GGUF's keys; see `load_from_sentencepiece`.

    Source: sentencepiece_model.proto of SentencePiece.
    """
    texts: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            if len(texts) >= _MAX_PIECES:
                raise _error(f"more than {_MAX_PIECES} pieces")
            text, score, kind = _piece(value, len(texts))
            texts.append(text)
            scores.append(score)
            types.append(kind)
        elif number == 2:
            trainer = dict(_fields(_as_bytes(value, "the trainer's settings")))
        elif number == 3:
            normalizer = dict(_fields(_as_bytes(value, "the normalizer's settings")))
    if not texts:
        raise _error("it has no pieces")
    model = _number(trainer, 3, _UNIGRAM)
    if model not in (_UNIGRAM, _BPE):
        raise TokenizerError(
            f"tokenizer.model: models of type {model} are not supported",
            remedy="supported are BPE and unigram",
        )
    config = config or {}
    _add_tokens(config, texts, scores, types)
    metadata: dict[str, Any] = {
        f"{_PREFIX}model": "llama" if model == _BPE else "t5",
        f"{_PREFIX}tokens": texts,
        f"{_PREFIX}scores": scores,
        f"{_PREFIX}token_type": types,
        f"{_PREFIX}add_space_prefix": bool(_number(normalizer, 3, 1)),
        f"{_PREFIX}remove_extra_whitespaces": bool(_number(normalizer, 4, 1)),
    }
    charsmap = normalizer.get(2)
    if charsmap:
        metadata[f"{_PREFIX}precompiled_charsmap"] = list(_as_bytes(charsmap, "the charsmap"))
    ids = {text: token_id for token_id, text in enumerate(texts)}
    for key, field, default, role in (
        ("unk", 40, 0, "unknown"),
        ("bos", 41, 1, "bos"),
        ("eos", 42, 2, "eos"),
        ("pad", 43, -1, "padding"),
    ):
        token_id = _configured(config, f"{key}_token", ids)
        if token_id is None:
            token_id = _number(trainer, field, default)
        if 0 <= token_id < len(texts):
            metadata[f"{_PREFIX}{role}_token_id"] = token_id
    for key, default in (("add_bos_token", model == _BPE), ("add_eos_token", model == _UNIGRAM)):
        wanted = config.get(key, default)
        if not isinstance(wanted, bool):
            raise TokenizerError(f"tokenizer_config.json: {key}: expected true or false")
        metadata[f"{_PREFIX}{key}"] = wanted
    return metadata


def _piece(value: int | bytes, index: int) -> tuple[str, float, int]:
    fields = dict(_fields(_as_bytes(value, f"piece {index}")))
    score = fields.get(2, b"\0\0\0\0")
    try:
        text = _as_bytes(fields.get(1, b""), f"the text of piece {index}").decode("utf-8")
        (number,) = struct.unpack("<f", _as_bytes(score, f"the score of piece {index}"))
    except (UnicodeDecodeError, struct.error):
        raise _error(f"piece {index} is malformed") from None
    return text, number, _number(fields, 3, 1)


def _add_tokens(
    config: Mapping[str, Any], texts: list[str], scores: list[float], types: list[int]
) -> None:
    """Puts in the tokens that tokenizer_config.json adds behind the pieces, or marks as special."""
    added = config.get("added_tokens_decoder", {})
    if not isinstance(added, dict):
        raise TokenizerError("tokenizer_config.json: added_tokens_decoder: expected an object")
    numbers = {str(i): i for i in range(len(texts) + len(added))}
    for key in sorted(added, key=lambda key: numbers.get(key, -1)):
        entry, token_id = added[key], numbers.get(key, -1)
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not 0 <= token_id <= len(texts):
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder: {key[:40]!r} is not the next id, or "
                "has no content"
            )
        kind = _CONTROL if entry.get("special") else _USER_DEFINED
        if token_id == len(texts):
            texts.append(content)
            scores.append(0.0)
            types.append(kind)
        elif texts[token_id] != content:
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder: {token_id} is {content[:40]!r}, but "
                f"tokenizer.model has {texts[token_id][:40]!r}"
            )
        elif types[token_id] == 1:
            types[token_id] = kind


def _configured(config: Mapping[str, Any], key: str, ids: Mapping[str, int]) -> int | None:
    value = config.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str) or value not in ids:
        raise TokenizerError(
            f"tokenizer_config.json: {key}: {str(value)[:40]!r} is not in the vocabulary"
        )
    return ids[value]


# The protocol buffer


def _fields(data: bytes) -> Iterator[_Field]:
    """Number and value of each field of a message: whole numbers as int, the rest as bytes.

    Source: protobuf.dev, "Encoding".
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _error(f"there is no field at byte {at}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _error(f"field {number} has the unknown wire type {kind}")
        if length > len(data) - at:
            raise _error(f"field {number} takes {length} bytes, but {len(data) - at} are left")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise _error("it ends within a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + index + 1
    raise _error(f"the number at byte {at} is too long")


def _number(fields: Mapping[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise _error(f"field {number} is not a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _as_bytes(value: int | bytes, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise _error(f"{what} is a number")
    return value


def _error(message: str) -> TokenizerError:
    return TokenizerError(f"tokenizer.model: {message}", remedy="the file is damaged: get it again")
