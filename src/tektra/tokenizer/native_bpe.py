"""Byte-level BPE by the native core, for the vocabularies and texts that it is sure of.

It is there to be ready at once: the tokenizers library takes a tenth of a second and more to read a
vocabulary. Whatever the core does not take on goes to that library, which is then made on the spot,
and which it equals token for token where it does (tests/tokenizer/test_native_bpe.py).
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, final, overload

import numpy as np
from numpy.typing import NDArray

from tektra.tokenizer.base import TextEncoder
from tektra.tokenizer.literals import LiteralMatcher
from tektra.tokenizer.pretokenizers import PreTokenizerSpec, native_words

if TYPE_CHECKING:
    from tektra._native import BytePairs

__all__ = ["NativeEncoder", "NativeTexts", "build_byte_pairs"]

# Where newer versions of Unicode than Python's have characters with a normal form of their own.
_NEW_CHARACTERS: Final = re.compile("[\U00010000-\U0001efff]")


def build_byte_pairs(
    tokens: Sequence[str], merges: Sequence[str], spec: PreTokenizerSpec
) -> BytePairs | None:
    """The vocabulary in the core; None where there is no core, or it does not take it on."""
    words = native_words(spec)
    if words is None or not len(tokens):
        return None
    try:
        from tektra._native import BytePairs
    except ImportError:
        return None
    token_strings, merge_strings = _strings(tokens), _strings(merges)
    if token_strings is None or merge_strings is None:
        return None
    try:
        return BytePairs(
            token_strings, len(tokens), merge_strings, len(merges), words, spec.ignore_merges
        )
    except ValueError:  # which need not be an error; if it is, the other way finds it again
        return None


@final
class NativeTexts(Sequence[str]):
    """Texts of the tokens of a vocabulary in the core, each made when it is asked for."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: BytePairs) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        places = range(len(self._pairs))[index]
        if isinstance(places, range):
            return [self._pairs.token(i) for i in places]
        return self._pairs.token(places)


@final
class NativeEncoder:
    """A `TextEncoder` over a vocabulary in the core.

    Args:
        pairs: the vocabulary.
        special: id of each special token by its text.
        nfc: whether text is brought into Unicode normal form C first.
        library: makes the encoder for texts that the core is not sure of.
    """

    def __init__(
        self,
        pairs: BytePairs,
        special: Mapping[str, int],
        *,
        nfc: bool,
        library: Callable[[], TextEncoder],
    ) -> None:
        self._pairs = pairs
        self._special = special
        self._nfc = nfc
        self._make_library = library

    def encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        ids = self._encode(text, parse_special=parse_special)
        if ids is None:
            ids = self._library.encode(text, parse_special=parse_special, at_start=at_start)
        return ids

    # Two threads may make it at once: a second one then goes again.
    @cached_property
    def _library(self) -> TextEncoder:
        return self._make_library()

    @cached_property
    def _matcher(self) -> LiteralMatcher:
        return LiteralMatcher(self._special)

    def _encode(self, text: str, *, parse_special: bool) -> list[int] | None:
        if (
            self._nfc
            and not text.isascii()
            and (_NEW_CHARACTERS.search(text) or not unicodedata.is_normalized("NFC", text))
        ):
            return None
        if not parse_special:
            return self._pairs.encode(text)
        ids: list[int] = []
        done = 0
        for start, end, token_id in self._matcher.find_all(text):
            between = self._pairs.encode(text[done:start])
            if between is None:
                return None
            ids += between
            ids.append(token_id)
            done = end
        rest = self._pairs.encode(text[done:])
        return None if rest is None else ids + rest


def _strings(values: Any) -> NDArray[np.uint8] | None:
    """Strings as a GGUF file has them: where they lie in one, or written out."""
    raw: Callable[[], NDArray[np.uint8]] | None = getattr(values, "raw_strings", None)
    try:
        if raw is not None:
            return raw()
        encoded = [value.encode("utf-8") for value in values]
    except (AttributeError, TypeError, UnicodeEncodeError):  # items that are no text
        return None
    data = b"".join(struct.pack("<Q", len(value)) + value for value in encoded)
    return np.frombuffer(data, np.uint8)
