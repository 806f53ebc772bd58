"""Finds a fixed set of strings in a text: leftmost first, the longest where several begin.

Knows nothing of tokens; serves sets of a few and of many thousand strings alike, where one
regular expression that lists them all would be slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import final

__all__ = ["LiteralMatcher"]


@final
class LiteralMatcher:
    """Finds non-overlapping occurrences of literals.

    Args:
        literals: value to report for each literal; empty ones are left out.
    """

    __slots__ = ("_lengths", "_literals", "_starts")

    def __init__(self, literals: Mapping[str, int]) -> None:
        self._literals = {text: value for text, value in literals.items() if text}
        # Lengths to try at a place, longest first, by the first two characters there.
        lengths: dict[str, set[int]] = {}
        for text in self._literals:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}
        heads = "|".join(re.escape(head) for head in sorted(self._lengths))
        # A lookahead, so that places found may overlap: "<<s>" has "<<" before "<s".
        self._starts = re.compile(f"(?={heads})") if heads else None

    def __bool__(self) -> bool:
        return self._starts is not None

    def find_all(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Start, end (in characters) and value of each occurrence, in order."""
        if self._starts is None:
            return
        end = 0
        for place in self._starts.finditer(text):
            start = place.start()
            if start < end:
                continue
            for value, length in self._candidates(text, start):
                end = start + length
                yield start, end, value
                break

    def search(self, text: str) -> bool:
        """Whether any literal occurs in the text."""
        return next(self.find_all(text), None) is not None

    def _candidates(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        heads = (text[start : start + 2], text[start : start + 1])
        for head in heads:
            for length in self._lengths.get(head, ()):
                value = self._literals.get(text[start : start + length])
                if value is not None and start + length <= len(text):
                    yield value, length
