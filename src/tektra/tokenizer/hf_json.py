"""Tokenizers from `tokenizer.json`, the file of the tokenizers library.

The library reads the file and encodes; this file finds out what the library keeps to itself:
which tokens are special, what is put round a text, and the bytes of each token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import tokenizers
from tokenizers import models

from tektra.errors import TokenizerError
from tektra.tokenizer.base import LeadingSpace, PairFrame, SpecialTokens, Tokenizer
from tektra.tokenizer.byte_level import byte_level_bytes
from tektra.tokenizer.eog import end_of_generation_ids
from tektra.tokenizer.gguf_spm import spm_piece_bytes
from tektra.tokenizer.library import LibraryEncoder, is_library_fault
from tektra.tokenizer.wordpiece import wordpiece_tokenizer

__all__ = ["load_from_json"]

_BYTE_PIECES: Final[Mapping[str, bytes]] = MappingProxyType(
    {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
)


def load_from_json(
    source: Path | str | bytes,
    tokenizer_config: Mapping[str, Any] | None = None,
    *,
    end_ids: frozenset[int] = frozenset(),
) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Args:
        source: path of the file, or its content.
        tokenizer_config: content of the `tokenizer_config.json` beside it: which tokens begin
            and end a text, and whether they are put there.
        end_ids: tokens that end a generation besides; what is beyond the vocabulary does not count.

    Raises:
        TokenizerError: the file is malformed or of a kind that is not supported, or the
            configuration names a token that is not in it.
    """
    config = tokenizer_config or {}
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise TokenizerError(f"tokenizer.json: {error.strerror}: {source!s}") from error
    try:
        library = tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise TokenizerError(f"tokenizer.json: {error}") from error
    if not isinstance(library.model, models.BPE | models.Unigram | models.WordPiece):
        raise TokenizerError(
            f"tokenizer.json: models of type {type(library.model).__name__} are not supported",
            remedy="supported are BPE, Unigram and WordPiece",
        )
    # Settings of whoever wrote the file, not of the model: a prompt is never cut or padded.
    library.no_truncation()
    library.no_padding()

    vocab = library.get_vocab(with_added_tokens=True)
    texts = [""] * (max(vocab.values(), default=-1) + 1)
    for text, token_id in vocab.items():
        texts[token_id] = text
    added = library.get_added_tokens_decoder()
    special_ids = frozenset(i for i, token in added.items() if token.special)
    ends = frozenset(i for i in end_ids if i < len(texts))
    special = _special_tokens(library, config, special_ids, ends)
    steps = _decoder_steps(library)
    if isinstance(library.model, models.WordPiece):
        prefix = library.model.continuing_subword_prefix
        return wordpiece_tokenizer(library, texts, special, prefix=prefix)
    return Tokenizer(
        kind="spm" if "ByteLevel" not in steps else "bpe",
        pre="",
        texts=texts,
        to_bytes=_byte_function(texts, frozenset(added), steps),
        encoder=LibraryEncoder(library, special.special_ids),
        special=special,
        leading_space=_leading_space(steps),
    )


def _special_tokens(
    library: tokenizers.Tokenizer,
    config: Mapping[str, Any],
    special_ids: frozenset[int],
    end_ids: frozenset[int],
) -> SpecialTokens:
    named = {name: _named_id(library, config, f"{name}_token") for name in _NAMES}
    bos, eos = named["bos"], named["eos"]
    prefix, suffix = _frame(library)
    if bos is not None:
        prefix = _as_configured(config, "add_bos_token", bos, prefix)
    if eos is not None:
        suffix = _as_configured(config, "add_eos_token", eos, suffix)
    added = library.get_added_tokens_decoder()
    control = {token.content: i for i, token in added.items()}
    ends = end_of_generation_ids(control) | ({eos} if eos is not None else set()) | end_ids
    return SpecialTokens(
        bos_id=bos,
        eos_id=eos,
        pad_id=named["pad"],
        unk_id=named["unk"],
        eos_ids=ends,
        special_ids=special_ids | ends,
        prefix_ids=prefix,
        suffix_ids=suffix,
        strip_left=frozenset(i for i, token in added.items() if token.lstrip),
        strip_right=frozenset(i for i, token in added.items() if token.rstrip),
        pair=_pair_frame(library),
    )


_NAMES: Final = ("bos", "eos", "pad", "unk")


def _named_id(library: tokenizers.Tokenizer, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str):
        raise TokenizerError(f"tokenizer_config.json: {key}: expected a token, got {value!r}")
    token_id = library.token_to_id(value)
    if token_id is None:
        raise TokenizerError(f"tokenizer_config.json: {key}: {value!r} is not in the vocabulary")
    return token_id


def _frame(library: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the file's post-processor puts before and after a text."""
    encoding = library.encode("a", add_special_tokens=True)
    mask, ids = encoding.special_tokens_mask, encoding.ids
    inside = [at for at, special in enumerate(mask) if not special]
    if not inside:
        return (), ()
    return tuple(ids[: inside[0]]), tuple(ids[inside[-1] + 1 :])


def _pair_frame(library: tokenizers.Tokenizer) -> PairFrame | None:
    """What the file's post-processor puts round two texts; None where it puts nothing between."""
    encoding = library.encode("a", "a", add_special_tokens=True)
    ids, of = encoding.ids, encoding.sequence_ids
    if 0 not in of or 1 not in of:
        return None
    first, second = of.index(0), of.index(1)
    between = tuple(ids[len(of[:second]) - of[:second][::-1].index(0) : second])
    last = len(of) - of[::-1].index(1)
    if not between or first > second:
        return None
    return PairFrame(tuple(ids[:first]), between, tuple(ids[last:]), encoding.type_ids[second])


def _as_configured(
    config: Mapping[str, Any], key: str, token_id: int, found: tuple[int, ...]
) -> tuple[int, ...]:
    wanted = config.get(key)
    if wanted is None or wanted == (token_id in found):
        return found
    if not isinstance(wanted, bool):
        raise TokenizerError(f"tokenizer_config.json: {key}: expected true or false")
    return (token_id,) if wanted else tuple(i for i in found if i != token_id)


def _decoder_steps(library: tokenizers.Tokenizer) -> dict[str, dict[str, Any]]:
    """Steps of the file's decoder by type."""
    decoder = library.decoder
    if decoder is None:
        return {}
    content: dict[str, Any] = json.loads(decoder.__getstate__())
    steps = content.get("decoders", [content])
    supported = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip", "WordPiece"}
    for step in steps:
        if step["type"] not in supported:
            raise TokenizerError(
                f"tokenizer.json: the decoder step {step['type']!r} is not supported"
            )
    return {step["type"]: step for step in steps}


def _byte_function(
    texts: list[str], added: frozenset[int], steps: Mapping[str, Mapping[str, Any]]
) -> Callable[[int], bytes]:
    byte_level, spaces = "ByteLevel" in steps, "Replace" in steps or "Metaspace" in steps

    def to_bytes(token_id: int) -> bytes:
        text = texts[token_id]
        if token_id in added:
            return text.encode("utf-8")
        if byte_level:
            return byte_level_bytes(text)
        if "ByteFallback" in steps and text in _BYTE_PIECES:
            return _BYTE_PIECES[text]
        return spm_piece_bytes(text) if spaces else text.encode("utf-8")

    return to_bytes


def _leading_space(steps: Mapping[str, Mapping[str, Any]]) -> LeadingSpace:
    if "Strip" in steps and steps["Strip"].get("start") == 1:
        return "strip one"
    if "Metaspace" in steps and steps["Metaspace"].get("prepend_scheme") != "never":
        return "strip one"
    return "keep"
