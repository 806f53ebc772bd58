"""What all seeded models share: draws from a name, a checksum of them, and a layout of GGUF.

Needs NumPy alone, and nothing of Tektra, so that a fault of ours cannot be in both halves of a
comparison.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "generator", "neighbours_rotated", "seal", "text"]

F32 = NDArray[np.float32]


def generator(seed: str) -> np.random.Generator:
    """Random numbers that belong to a text, the same on every machine."""
    return np.random.default_rng(zlib.crc32(seed.encode()))


def text(name: str, num_tokens: int, vocab: int, first: int = 0) -> NDArray[np.int32]:
    """The text of a small model: int32 [num_tokens], from ``first`` up to ``vocab``."""
    ids = generator(f"{name} tokens").integers(first, vocab, num_tokens)
    return ids.astype(np.int32)


def seal(arrays: Iterable[NDArray[Any]]) -> int:
    """Checksum of arrays in order: tells whether the seed still makes what it made."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.tobytes(), crc)
    return crc


def neighbours_rotated(array: F32, heads: int) -> F32:
    """Rows of each head from halves to neighbours: (0, n/2, 1, n/2 + 1, ...).

    That is how GGUF has query and key of llama and others, while transformers rotates halves.
    """
    halves = array.reshape(heads, 2, len(array) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
