"""What is known of a tensor in a model file before its bytes are read.

It describes; it holds no data and knows nothing of the file format that it came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tektra.formats.ggml_types import GGMLType

__all__ = ["TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a model file.

    Attributes:
        name: as stored in the file.
        shape: NumPy order, rows first and the width last (the reverse of ggml's ``ne``).
        type: element type; blocks run along the last dimension.
        file: index of the file it is in, among the splits of the model.
        offset: bytes from the start of that file.
        nbytes: bytes that it takes there, padding excluded.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    file: int
    offset: int
    nbytes: int

    @property
    def num_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)
