"""Chooses the kind of tokenizer that a GGUF file asks for.

Knows the names of the kinds; each kind has its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from tektra.errors import TokenizerError
from tektra.tokenizer.base import Tokenizer
from tektra.tokenizer.gguf_bpe import load_gguf_bpe
from tektra.tokenizer.gguf_spm import load_gguf_spm
from tektra.tokenizer.gguf_vocab import optional_str

__all__ = ["load_from_gguf"]

_MODEL: Final = "tokenizer.ggml.model"


def _wordpiece(metadata: Mapping[str, Any]) -> Tokenizer:
    # On demand, as these need the tokenizers library, which takes long to import.
    from tektra.tokenizer.gguf_wordpiece import load_gguf_wordpiece

    return load_gguf_wordpiece(metadata)


def _unigram(metadata: Mapping[str, Any]) -> Tokenizer:
    from tektra.tokenizer.gguf_unigram import load_gguf_unigram

    return load_gguf_unigram(metadata)


_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], Tokenizer]]] = MappingProxyType(
    {
        "bert": _wordpiece,
        "gpt2": load_gguf_bpe,
        "llama": load_gguf_spm,
        "t5": _unigram,
    }
)
_NOT_YET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rwkv": "RWKV",
        "plamo2": "PLaMo 2",
        "gemma4": "Gemma 4",
        "hybriddna": "hybrid DNA",
        "whitespace": "whitespace",
    }
)


def load_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF file.

    Args:
        metadata: values by key. Arrays may be lists or anything with ``tolist()``.

    Raises:
        TokenizerError: there is no tokenizer, it is of a kind that is not supported, or one of
            its values is missing, malformed or out of range; the message names the key.
    """
    name = optional_str(metadata, _MODEL)
    if name is None or name in ("no_vocab", "none"):
        raise TokenizerError(
            f"{_MODEL}: the file has no tokenizer", remedy="use a file that holds the vocabulary"
        )
    load = _KINDS.get(name)
    if load is None:
        kind = _NOT_YET.get(name)
        what = f"{kind} tokenizers are not supported yet" if kind else "an unknown kind"
        raise TokenizerError(
            f"{_MODEL}: {name!r}: {what}",
            remedy=f"supported kinds are {', '.join(sorted(_KINDS))}",
        )
    return load(metadata)
