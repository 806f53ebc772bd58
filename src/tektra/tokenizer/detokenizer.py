"""Text of a stream of tokens as it comes: whole characters only, and stop strings.

Knows tokens as bytes and stop strings as text. It does not know why a generation ends
otherwise, nor who reads the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import final

from tektra.errors import InvalidParameterError
from tektra.tokenizer.base import TokenBytes, Tokenizer

__all__ = ["StreamDetokenizer"]


@final
class StreamDetokenizer:
    """Turns tokens into text that can be shown at once.

    What `push` returned so far never has to be taken back: a character is held until all its
    bytes are there, and text that may be the beginning of a stop string until it is known. All
    that `push` and `finish` return, joined, is the text of the ids up to the stop string.

    Of several stop strings the one that is complete first counts (of those, the longest), so
    the outcome does not depend on how the text is cut into tokens. A stop string that is the
    text of a special token also stops at that token.

    Args:
        tokenizer: whose ids come.
        stop: stop strings; the text ends before them.
        skip_special: leave special tokens out of the text.
        at_start: whether the ids begin a text. False where they go on with a prompt's text: a
            leading space is then part of it.

    Raises:
        InvalidParameterError: a stop string is empty.
    """

    __slots__ = ("_decoder", "_held", "_stop", "_stop_ids", "_stopped", "_tokens")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        at_start: bool = True,
    ) -> None:
        for i, text in enumerate(stop):
            if not text:
                raise InvalidParameterError(f"stop[{i}]", "a stop string must not be empty")
        self._tokens = TokenBytes(tokenizer, skip_special=skip_special, at_start=at_start)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Longest first: of stop strings that end at the same place the longest is reported.
        self._stop = tuple(sorted(set(stop), key=lambda text: (-len(text), text)))
        special = tokenizer.special_texts if self._stop else {}
        self._stop_ids = {special[text]: text for text in self._stop if text in special}
        self._held = ""
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, or `None`. `push` returns nothing after it."""
        return self._stopped

    def push(self, token_id: int) -> str:
        """Text that is certain now that this token has come; often empty.

        Raises:
            InvalidParameterError: the id is not in the vocabulary.
        """
        if self._stopped is not None:
            return ""
        if token_id in self._stop_ids:
            # Incomplete bytes before it are certain to stay so, and may complete a stop string.
            text = self._release(self._decoder.decode(b"", final=True)) + self._take_held()
            self._stopped = self._stopped or self._stop_ids[token_id]
            return text
        return self._release(self._decoder.decode(self._tokens.push(token_id)))

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        if self._stopped is not None:
            return ""
        return self._release(self._decoder.decode(b"", final=True)) + self._take_held()

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _release(self, new: str) -> str:
        if not self._stop or not new:
            return new
        text = self._held + new
        found: tuple[int, str] | None = None
        for stop in self._stop:
            at = text.find(stop)
            if at >= 0 and (found is None or at + len(stop) < found[0]):
                found = at + len(stop), stop
        if found is not None:
            end, self._stopped = found
            self._held = ""
            return text[: end - len(self._stopped)]
        keep = self._num_held(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _num_held(self, text: str) -> int:
        """Characters at the end of the text that a stop string may begin with."""
        for length in range(min(len(self._stop[0]) - 1, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
