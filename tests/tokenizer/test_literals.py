"""The matcher of literals against a plain search of the same meaning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tektra.tokenizer.literals import LiteralMatcher

LETTERS = "ab<"


def plain(literals: list[str], text: str) -> list[tuple[int, int, str]]:
    found, at = [], 0
    while at < len(text):
        here = [literal for literal in literals if literal and text.startswith(literal, at)]
        if here:
            longest = max(here, key=len)
            found.append((at, at + len(longest), longest))
            at += len(longest)
        else:
            at += 1
    return found


@given(
    literals=st.lists(st.text(LETTERS, max_size=4), max_size=5, unique=True),
    text=st.text(LETTERS, max_size=30),
)
def test_leftmost_longest(literals: list[str], text: str) -> None:
    matcher = LiteralMatcher({literal: i for i, literal in enumerate(literals)})
    expected = [(start, end, literals.index(found)) for start, end, found in plain(literals, text)]
    assert list(matcher.find_all(text)) == expected
    assert matcher.search(text) is bool(expected)
