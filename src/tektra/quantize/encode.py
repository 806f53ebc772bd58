"""Encodes the weights of one tensor, row by row, as another type.

By the native core where it is there, else by the NumPy encoders. It knows neither files nor models.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import dequantize, quantize

__all__ = ["Encoder"]

_NATIVE_SOURCES = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})
# Weights that are held as float32 at a time.
_PIECE = 1 << 22


class Encoder:
    """Encodes tensors on some threads. Safe to share among threads.

    Args:
        threads: that compute.
        native: whether to use the native core; None where it is there.
    """

    def __init__(self, threads: int = 1, *, native: bool | None = None) -> None:
        core = None
        if native is not False:
            from tektra.backends.cpu import native_core

            core = native_core()
        self._native: Any = None if core is None else core.Encoder("", threads)

    def encode(
        self,
        data: NDArray[np.uint8],
        source: GGMLType,
        shape: tuple[int, ...],
        target: GGMLType,
        *,
        importance: NDArray[np.float32] | None = None,
        name: str = "",
    ) -> NDArray[np.uint8]:
        """The bytes of a tensor in another type.

        Args:
            data: uint8, the stored bytes.
            source: what they are.
            shape: of the weights, width last.
            target: what they are to be.
            importance: float32 [width], or [experts, width] for a tensor of three dimensions:
                how much the error of each column weighs, all above zero.
            name: of the tensor, for errors.

        Returns:
            uint8 [bytes of the tensor], new memory unless nothing was to be done.

        Raises:
            FormatError: a weight is not finite, or too large for the type.
            UnsupportedModelError: the source cannot be decoded, or the target not encoded.
        """
        if source is target:
            return data.reshape(-1)
        width = shape[-1] if shape else 1
        num_rows = math.prod(shape[:-1])
        out = np.empty(num_rows * target.row_bytes(width), np.uint8)
        if not num_rows:
            return out
        source_row, target_row = source.row_bytes(width), target.row_bytes(width)
        flat = np.ascontiguousarray(data).reshape(-1)
        # One expert after another, as each has its own importance.
        groups = shape[0] if importance is not None and importance.ndim == 2 else 1
        rows = num_rows // groups
        for group in range(groups):
            weights = (
                importance if importance is None or importance.ndim == 1 else importance[group]
            )
            step = rows if source in _NATIVE_SOURCES else max(1, _PIECE // width)
            for first in range(group * rows, (group + 1) * rows, step):
                count = min(step, (group + 1) * rows - first)
                piece = flat[first * source_row : (first + count) * source_row]
                to = out[first * target_row : (first + count) * target_row]
                self._rows(piece, source, (count, width), target, weights, to, name)
        return out

    def _rows(
        self,
        data: NDArray[np.uint8],
        source: GGMLType,
        shape: tuple[int, int],
        target: GGMLType,
        importance: NDArray[np.float32] | None,
        out: NDArray[np.uint8],
        name: str,
    ) -> None:
        width = shape[1]
        if self._native is None or not self._native.row_bytes(int(target), width):
            if importance is not None and target.block_size > 1:
                raise UnsupportedModelError(
                    f"tensor {name!r}: without the native core importance cannot be heeded",
                    remedy="install Tektra on a machine with a C++20 compiler",
                )
            step = max(1, _PIECE // width)
            row, to_row = source.row_bytes(width), target.row_bytes(width)
            for first in range(0, shape[0], step):
                count = min(step, shape[0] - first)
                piece = data[first * row : (first + count) * row]
                floats = dequantize(piece, source, (count, width), name=name)
                encoded = quantize(floats, target, name=name)
                out[first * to_row : (first + count) * to_row] = encoded.reshape(-1)
            return
        if source not in _NATIVE_SOURCES:
            floats = dequantize(data, source, shape, name=name)
            data, source = floats.reshape(-1).view(np.uint8), GGMLType.F32
        result = self._native.encode(int(target), int(source), data, width, importance, out)
        if result:
            what = f"tensor {name!r}" if name else "a tensor"
            if result == 1:
                raise FormatError(
                    f"{what} has a weight that is not finite; {target.name} cannot keep it"
                )
            raise FormatError(f"{what} has a weight that is too large for {target.name}")
