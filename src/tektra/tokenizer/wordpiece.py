"""WordPiece tokenizers, as BERT has them, whatever file they come from.

Tokens are shown as GGUF writes them: one that begins a word has a mark of space in front, one that
continues a word has none. It does not know how text is cut; the tokenizers library does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import tokenizers

from tektra.tokenizer.base import SpecialTokens, Tokenizer
from tektra.tokenizer.library import LibraryEncoder
from tektra.tokenizer.spm_encoder import SPACE

__all__ = ["CONTINUES", "wordpiece_tokenizer"]

CONTINUES: Final = "##"
"""Stands before tokens that continue a word, in vocabularies that are not GGUF's."""


def wordpiece_tokenizer(
    library: tokenizers.Tokenizer,
    texts: Sequence[str],
    special: SpecialTokens,
    *,
    prefix: str = CONTINUES,
) -> Tokenizer:
    """The tokenizer over an object of the library.

    Args:
        library: cuts text.
        texts: of the tokens, those that continue a word with the prefix.
        special: the ids with a meaning.
        prefix: what stands before tokens that continue a word.
    """
    whole = special.special_ids

    def marked(token_id: int, text: str) -> str:
        if token_id in whole or not text:
            return text
        return text.removeprefix(prefix) if text.startswith(prefix) else SPACE + text

    shown = [marked(token_id, text) for token_id, text in enumerate(texts)]

    def to_bytes(token_id: int) -> bytes:
        text = shown[token_id]
        return (text if token_id in whole else text.replace(SPACE, " ")).encode("utf-8")

    return Tokenizer(
        kind="wordpiece",
        pre="",
        texts=shown,
        to_bytes=to_bytes,
        encoder=LibraryEncoder(library, whole),
        special=special,
        leading_space="strip one",
    )
