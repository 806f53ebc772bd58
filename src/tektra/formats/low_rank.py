"""Updates of low rank: what LoRA adapters consist of (https://arxiv.org/abs/2106.09685).

Plain data and its checks; it knows neither files nor models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError

__all__ = ["MAX_RANK", "AdapterFile", "LowRankUpdate", "checked_update"]

MAX_RANK = 4096
"""Far above what anybody trains (8 to 256)."""


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """What an adapter adds to the product with one matrix: scale * b (a x).

    Attributes:
        a: float32 [rank, width of the matrix].
        b: float32 [rows of the matrix, rank].
        scale: factor on the product.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as it was read.

    Attributes:
        name: what to call it in errors.
        architecture: ``general.architecture`` of the models that it is for; None where it does not
            say.
        updates: by the name of the matrix, as GGUF has it.
    """

    name: str
    architecture: str | None
    updates: Mapping[str, LowRankUpdate]


def checked_update(
    a: NDArray[np.float32], b: NDArray[np.float32], scale: float, *, name: str
) -> LowRankUpdate:
    """An update of these factors; ``name`` is that of the matrix, for errors.

    Raises:
        FormatError: they are not matrices of one rank, or something in them is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or 0 in a.shape or 0 in b.shape:
        raise FormatError(
            f"the adapter's factors of {name!r} have the shapes {a.shape} and {b.shape}; "
            "two matrices are needed"
        )
    if len(a) != b.shape[1]:
        raise FormatError(
            f"the adapter's factors of {name!r} are of different ranks: {len(a)} and {b.shape[1]}",
            remedy="the file is damaged, or its factors are transposed",
        )
    if len(a) > MAX_RANK:
        raise FormatError(
            f"the adapter's rank for {name!r} is {len(a)}; at most {MAX_RANK} is supported"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all() and math.isfinite(scale)):
        raise FormatError(
            f"the adapter has values that are not finite for {name!r}",
            remedy="the file is damaged, or its training diverged",
        )
    return LowRankUpdate(a, b, scale)
