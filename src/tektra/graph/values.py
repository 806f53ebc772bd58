"""Values: what flows between ops. Every value is a float32 matrix of rows x width.

The number of rows is known only when a step runs; the row space says which number it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["OutputName", "RowSpace", "Value"]


class RowSpace(Enum):
    """What a row of a value stands for; two values can be combined only in one row space."""

    TOKENS = "tokens"
    """One row per token of the step, over all sequences of the ragged batch."""
    OUTPUTS = "outputs"
    """One row per token whose result is wanted: a selection of TOKENS."""
    PATCHES = "patches"
    """One row per image patch."""
    FRAMES = "frames"
    """One row per audio frame."""


OutputName = Literal["logits", "hidden", "scores"]
"""What a graph can be asked for: next-token logits, the final hidden state before them, or what a
classification head makes of the first row of a text."""


@dataclass(frozen=True, slots=True)
class Value:
    """A matrix of rows x width, made by one op of one graph.

    Attributes:
        id: position among the values of its graph.
        rows: the row space.
        width: elements in a row.
    """

    id: int
    rows: RowSpace
    width: int

    def __str__(self) -> str:
        return f"%{self.id}[{self.rows.value} x {self.width}]"
