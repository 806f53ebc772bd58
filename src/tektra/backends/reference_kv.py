"""The paged cache of the reference backend: what a row writes, and what every row reads back.

It knows what keys and values are rounded to, not what attention does with them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, CacheType, KvGeometry

__all__ = ["KvCache", "kv_bytes_per_token"]

F32 = NDArray[np.float32]

_LARGEST: Final = np.float32(127.0)
_SMALLEST: Final = np.float32(1e-34)
"""Heads whose largest element is below it are zero: the inverse of the scale would overflow."""


def kv_bytes_per_token(geometry: KvGeometry, kind: CacheType, dtype: np.dtype[Any]) -> int:
    """Bytes that one layer keeps of a token."""
    elements = geometry.head_dim + geometry.value_dim
    per_head = elements + 2 * 4 if kind == "int8" else elements * _float_type(kind, dtype).itemsize
    return geometry.num_kv_heads * per_head


def _float_type(kind: CacheType, dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if kind == "f32" else dtype


class KvCache:
    """One layer's pages: keys [blocks, block size, kv heads, head_dim], values [.., value_dim].

    Args:
        num_blocks: pages.
        geometry: heads and their widths.
        kind: ``"int8"``: each head of a token is divided by its largest element / 127, keys after
            a rotation; ``"f16"``: as ``dtype``; ``"f32"``: as it is.
        dtype: what float16 is kept as.
    """

    def __init__(
        self, num_blocks: int, geometry: KvGeometry, kind: CacheType, dtype: np.dtype[Any]
    ) -> None:
        self._quantized = kind == "int8"
        kept = np.dtype(np.int8) if self._quantized else _float_type(kind, dtype)
        shape = (num_blocks, KV_BLOCK_SIZE, geometry.num_kv_heads)
        self._keys = np.zeros((*shape, geometry.head_dim), kept)
        self._values = np.zeros((*shape, geometry.value_dim), kept)
        scales = shape if self._quantized else (0,)
        self._key_scales = np.zeros(scales, np.float32)
        self._value_scales = np.zeros(scales, np.float32)

    def write(self, blocks: NDArray[Any], places: NDArray[Any], keys: F32, values: F32) -> None:
        """Puts rows [n, kv heads, width] to places in blocks."""
        if self._quantized:
            codes, self._key_scales[blocks, places] = _quantized(_rotated(keys))
            self._keys[blocks, places] = codes
            codes, self._value_scales[blocks, places] = _quantized(values)
            self._values[blocks, places] = codes
            return
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite
            self._keys[blocks, places] = keys
            self._values[blocks, places] = values

    def read(self, table: NDArray[Any], length: int) -> tuple[F32, F32]:
        """Keys and values of a sequence's first tokens, [length, kv heads, width]."""
        keys = self._sequence(self._keys, table, length).astype(np.float32)
        values = self._sequence(self._values, table, length).astype(np.float32)
        if self._quantized:
            size = np.float32(_rotated_together(keys.shape[-1]))
            keys *= self._sequence(self._key_scales, table, length)[..., None]
            keys = _rotated(keys) / size
            values *= self._sequence(self._value_scales, table, length)[..., None]
        return keys, values

    @staticmethod
    def _sequence(pages: NDArray[Any], table: NDArray[Any], length: int) -> NDArray[Any]:
        rows: NDArray[Any] = pages[table].reshape(-1, *pages.shape[2:])[:length]
        return rows


def _quantized(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Whole numbers from -127 to 127, ties to even, and the scale of each head.

    Where a head is not finite the scale is not a number.
    """
    largest = np.abs(x).max(axis=-1)
    finite = np.isfinite(x).all(axis=-1)
    used = finite & (largest > _SMALLEST)
    inverse = np.where(used, _LARGEST / np.where(used, largest, 1), 0).astype(np.float32)
    x = np.where(used[..., None], x, np.float32(0))
    scale = np.where(finite, largest / _LARGEST, np.nan).astype(np.float32)
    return np.rint(x * inverse[..., None]).astype(np.int8), scale


def _rotated_together(width: int) -> int:
    """Elements that are rotated together: the largest power of two that divides the width."""
    return width & -width


def _rotated(x: F32) -> F32:
    """A Hadamard matrix, without its factor, times neighbouring elements along the last axis.

    It spreads a large element over all. Twice it is the number of elements rotated together.
    """
    half, together = 1, _rotated_together(x.shape[-1])
    while half < together:
        pairs = x.reshape(*x.shape[:-1], -1, 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        half *= 2
    return x
