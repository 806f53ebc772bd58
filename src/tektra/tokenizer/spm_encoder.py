"""SentencePiece-style BPE: merges the pair whose joined piece has the best score, again and again.

The algorithm of SentencePiece's `bpe_model` (Kudo and Richardson 2018), exact with its order of
ties. Knows pieces and scores; nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import Final, final

from tektra.tokenizer.literals import LiteralMatcher

__all__ = ["SPACE", "SPMEncoder"]

SPACE: Final = "\u2581"
"""What stands for a space in pieces (lower one eighth block)."""

_CACHE_SIZE: Final = 1 << 15
_CACHED_LENGTH: Final = 48


@final
class SPMEncoder:
    """A `TextEncoder` for SentencePiece BPE vocabularies.

    Args:
        pieces: id and score of each piece that merging may make; higher scores merge first.
        special: id of each special token by its text.
        user_defined: id of each piece that is always taken whole, by its text.
        unused: pieces that are merged on the way but come out as what they were made of.
        byte_ids: id of the piece of each byte, [256]; `None` where there is no byte fallback.
        unk_id: id for characters without a piece; runs of them become one token.
        space_prefix: whether a text, and what follows a special token, begins with a space.
        strip_spaces: whether runs of spaces become one, and those at the ends are dropped.
    """

    def __init__(
        self,
        pieces: Mapping[str, tuple[int, float]],
        *,
        special: Mapping[str, int],
        user_defined: Mapping[str, int],
        unused: frozenset[str],
        byte_ids: tuple[int, ...] | None,
        unk_id: int | None,
        space_prefix: bool,
        strip_spaces: bool,
    ) -> None:
        self._pieces = pieces
        self._special = LiteralMatcher(special)
        self._user_defined = LiteralMatcher(
            {text.replace(" ", SPACE): token_id for text, token_id in user_defined.items()}
        )
        self._unused = unused
        self._byte_ids = byte_ids
        self._unk_id = unk_id
        self._space_prefix = space_prefix
        self._strip_spaces = strip_spaces
        self._words = re.compile(_word_pattern(pieces), re.DOTALL)
        self._cached_word = lru_cache(_CACHE_SIZE)(self._merge)

    def encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        # `at_start` makes no difference: a space goes before what follows a special token too.
        del at_start
        if not parse_special or not self._special:
            return self._encode_plain(text)
        ids: list[int] = []
        start = 0
        for match_start, end, token_id in self._special.find_all(text):
            ids += self._encode_plain(text[start:match_start])
            ids.append(token_id)
            start = end
        ids += self._encode_plain(text[start:])
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if self._strip_spaces:
            # SentencePiece cuts the end off after spaces were replaced, the beginning before.
            text = re.sub(" +", " ", text.lstrip(" ").rstrip(f" {SPACE}"))
        if not text:
            return []
        text = (SPACE if self._space_prefix else "") + text.replace(" ", SPACE)
        if not self._user_defined:
            return self._joined(self._encode_words(text))
        ids: list[int] = []
        start = 0
        for match_start, end, token_id in self._user_defined.find_all(text):
            ids += self._encode_words(text[start:match_start])
            ids.append(token_id)
            start = end
        ids += self._encode_words(text[start:])
        return self._joined(ids)

    def _encode_words(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in self._words.findall(text):
            ids += self._cached_word(word) if len(word) <= _CACHED_LENGTH else self._merge(word)
        return ids

    def _joined(self, ids: list[int]) -> list[int]:
        """Runs of the unknown token as one."""
        unk = self._unk_id
        if self._byte_ids is not None or unk is None or unk not in ids:
            return ids
        return [i for at, i in enumerate(ids) if i != unk or at == 0 or ids[at - 1] != unk]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Ids of a stretch of text that no piece reaches beyond."""
        pieces = self._pieces
        whole = pieces.get(word)
        if len(word) == 1 and whole is not None and word not in self._unused:
            return (whole[0],)
        # Symbols as a linked list over positions: `end[i]` is where the symbol at i ends, and
        # `prev[i]` where the one before it begins.
        length = len(word)
        end = list(range(1, length + 1))
        prev = list(range(-1, length - 1))
        made_of: dict[str, tuple[str, str]] = {}
        queue: list[tuple[float, int, int, int]] = []
        for left in range(length - 1):
            found = pieces.get(word[left : left + 2])
            if found is not None:
                queue.append((-found[1], left, left + 1, left + 2))
                if self._unused:
                    made_of[word[left : left + 2]] = word[left], word[left + 1]
        heapify(queue)
        while queue:
            _, left, right, right_end = heappop(queue)
            # A symbol that was merged since no longer begins or ends where it did.
            if end[left] != right or end[right] != right_end:
                continue
            end[left], end[right] = right_end, -1
            if right_end < length:
                prev[right_end] = left
            for a, b in ((prev[left], left), (left, right_end)):
                if a < 0 or b >= length:
                    continue
                text = word[a : end[b]]
                found = pieces.get(text)
                if found is not None:
                    heappush(queue, (-found[1], a, b, end[b]))
                    if self._unused:
                        made_of[text] = word[a:b], word[b : end[b]]
        ids: list[int] = []
        at = 0
        while at < length:
            self._append(word[at : end[at]], made_of, ids)
            at = end[at]
        return tuple(ids)

    def _append(self, text: str, made_of: Mapping[str, tuple[str, str]], ids: list[int]) -> None:
        parts = [text]
        while parts:
            part = parts.pop()
            if part in self._unused and part in made_of:
                parts += reversed(made_of[part])
                continue
            found = self._pieces.get(part)
            if found is not None:
                ids.append(found[0])
            elif self._byte_ids is not None:
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8")]
            elif self._unk_id is not None:
                ids.append(self._unk_id)


def _word_pattern(pieces: Mapping[str, object]) -> str:
    """An expression for stretches of text that no piece crosses the borders of.

    Pieces hold spaces at their beginning, rarely inside. So text can be cut before a space,
    and each word merged (and remembered) by itself, unless some piece has a space after the
    character that stands before it.
    """
    inside = {hit[0] for hit in re.findall(f"[^\n]{SPACE}", "\n".join(pieces))}
    if any(f"\n{SPACE}" in piece for piece in pieces if "\n" in piece):
        inside.add("\n")
    before = "".join(map(re.escape, sorted(inside | {SPACE})))
    return f".(?:(?!{SPACE}).|(?<=[{before}]){SPACE})*"
