"""What happens where a text becomes longer than the context: it ends, or its middle gives way.

With ``slide`` the first tokens stay, since attention leans on them (Xiao et al., "Efficient
Streaming Language Models with Attention Sinks", https://arxiv.org/abs/2309.17453), and so do the
newest. What stays is read anew at the positions that it has then, so a text goes on exactly as one
that had never held more. It knows numbers of tokens, nothing of caches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from tektra.errors import InvalidParameterError

__all__ = ["DEFAULT_KEPT", "SlidingContext"]

DEFAULT_KEPT: Final = 64
"""First tokens that stay where a policy does not say how many: a short system message, say."""


@dataclass(frozen=True, slots=True)
class SlidingContext:
    """A context whose middle gives way.

    Attributes:
        context: most tokens that the model reads.
        num_first: how many of the first tokens stay.
    """

    context: int
    num_first: int

    @classmethod
    def from_policy(cls, policy: str, context: int) -> Self | None:
        """What a policy means for a context: ``"slide"``, ``"slide:N"``, or ``"stop"`` (None).

        Raises:
            InvalidParameterError: it is none of these, or N first tokens take more than half of
                the context.
        """
        if policy == "stop":
            return None
        match = re.fullmatch(r"slide(?::([0-9]{1,9}))?", policy)
        if match is None:
            raise InvalidParameterError(
                "context_policy",
                f"{policy[:60]!r} is none of stop, slide and slide:N, where N first tokens stay",
            )
        if match[1] is None:
            return cls(context, min(DEFAULT_KEPT, context // 4))
        num_first = int(match[1])
        if num_first > context // 2:
            raise InvalidParameterError(
                "context_policy",
                f"{num_first} first tokens are more than half of the context, {context}",
            )
        return cls(context, num_first)

    @property
    def num_newest(self) -> int:
        """How many of the newest tokens stay: half of the rest, so that it slides seldom."""
        return max(1, (self.context - self.num_first) // 2)

    def shorten(self, tokens: list[int]) -> int:
        """Takes the middle out of tokens that are too many; returns how many those were."""
        if len(tokens) <= self.context:
            return 0
        end = len(tokens) - self.num_newest
        del tokens[self.num_first : end]
        return end - self.num_first
