"""Encoding by the tokenizers library, with special tokens parsed or not.

Knows the library's objects; not where they come from.
"""

from __future__ import annotations

from collections.abc import Set
from itertools import groupby
from typing import final

import tokenizers

from tektra.errors import TokenizerError

__all__ = ["LibraryEncoder", "is_library_fault"]


@final
class LibraryEncoder:
    """A `TextEncoder` over a tokenizer of the tokenizers library.

    Whether special tokens are parsed is a switch on the library's object, and it must not be
    thrown while another thread encodes. So there are two objects, which share the model.

    Args:
        parsing: the tokenizer.
        special_ids: ids of special tokens, whether or not the library takes them for that.
    """

    __slots__ = ("_parsing", "_plain", "_plain_inside")

    def __init__(self, parsing: tokenizers.Tokenizer, special_ids: Set[int]) -> None:
        self._parsing = parsing
        self._plain = _twin(parsing, special_ids)
        inside = _without_first_space(parsing)
        self._plain_inside = self._plain if inside is None else _twin(parsing, special_ids, inside)

    def encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        plain = self._plain if at_start else self._plain_inside
        used = self._parsing if parse_special else plain
        ids: list[int] = used.encode(text, add_special_tokens=False).ids
        return ids


def is_library_fault(error: BaseException) -> bool:
    """Whether an error may be the library's: it raises bare `Exception`, and panics.

    A panic of its Rust code is a `BaseException` of a class that cannot be imported.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _twin(
    tokenizer: tokenizers.Tokenizer,
    special_ids: Set[int],
    pre_tokenizer: tokenizers.pre_tokenizers.PreTokenizer | None = None,
) -> tokenizers.Tokenizer:
    """The same tokenizer, reading special tokens as plain text."""
    twin = tokenizers.Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        twin.normalizer = tokenizer.normalizer
    if pre_tokenizer is not None:
        twin.pre_tokenizer = pre_tokenizer
    elif tokenizer.pre_tokenizer is not None:
        twin.pre_tokenizer = tokenizer.pre_tokenizer
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    for token_id, token in added:
        token.special = token.special or token_id in special_ids
    # In order of ids: the library numbers tokens that the model lacks as they come.
    for special, group in groupby((token for _, token in added), key=lambda token: token.special):
        (twin.add_special_tokens if special else twin.add_tokens)(list(group))
    wrong = [token.content for i, token in added if twin.token_to_id(token.content) != i]
    if wrong:
        raise TokenizerError(f"added tokens: the id of {wrong[0]!r} does not follow the others")
    twin.encode_special_tokens = True
    return twin


def _without_first_space(
    tokenizer: tokenizers.Tokenizer,
) -> tokenizers.pre_tokenizers.PreTokenizer | None:
    """The pre-tokenizer for text that does not begin one, if that is another."""
    pre = tokenizer.pre_tokenizer
    if isinstance(pre, tokenizers.pre_tokenizers.Metaspace) and pre.prepend_scheme == "first":
        return tokenizers.pre_tokenizers.Metaspace(
            replacement=pre.replacement, prepend_scheme="never", split=pre.split
        )
    return None
