"""Weights of 8-bit floating point with their scales, as 16- or 32-bit floats.

One scale for a tensor, for each row, or for each block of rows and columns. Where all scales are
powers of two the result is exact: F16, or BF16 where that does not reach. Otherwise it is the
nearest F16, whose 11 bits leave an error of 2^-12 where the 8-bit number itself is good to 2^-4;
F32 where F16 does not reach. It knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.ggml_types import GGMLType

__all__ = ["decode_fp8", "fp8_type", "fp8_values"]

_CHUNK = 1 << 20
_MAX_HALF = 65504.0


def fp8_values(dtype: str) -> NDArray[np.float32]:
    """The number that each byte stands for: float32 [256].

    ``F8_E4M3`` has no infinities and NaN in one place of each sign; ``F8_E5M2`` is the upper half
    of an IEEE half (Micikevicius et al., https://arxiv.org/abs/2209.05433).
    """
    codes = np.arange(256, dtype=np.uint32)
    if dtype == "F8_E5M2":
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(1.0 + mantissa / 8.0, exponent.astype(np.int32) - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa / 8.0, -6), normal)
    value = np.where(codes & 0x7F == 0x7F, np.nan, value)
    return np.where(codes & 0x80, -value, value).astype(np.float32)


def fp8_type(dtype: str, scales: NDArray[np.float32] | None) -> GGMLType:
    """The element type that weights with these scales are decoded to."""
    if scales is None:
        return GGMLType.F16
    mantissas, exponents = np.frexp(scales)
    exact = bool((np.abs(mantissas[scales != 0]) == 0.5).all())
    # As powers of two: the largest and the smallest number that 8 bits hold.
    most, least = (448.0, -9) if dtype == "F8_E4M3" else (57344.0, -16)
    largest = float(np.abs(scales).max(initial=0.0)) * most
    if not exact:
        return GGMLType.F16 if largest <= _MAX_HALF else GGMLType.F32
    smallest = int(exponents[scales != 0].min(initial=1)) - 1 + least
    if largest <= _MAX_HALF and smallest >= -24:
        return GGMLType.F16
    return GGMLType.BF16 if largest < 2.0**127 and smallest >= -126 else GGMLType.F32


def decode_fp8(
    data: NDArray[np.uint8],
    dtype: str,
    shape: tuple[int, ...],
    scales: NDArray[np.float32] | None,
    block: tuple[int, int] | None,
    *,
    name: str,
) -> NDArray[np.uint8]:
    """The weights as the bytes of `fp8_type`.

    Args:
        data: uint8, one byte for each weight.
        dtype: ``F8_E4M3`` or ``F8_E5M2``.
        shape: of the weights, width last.
        scales: what they are multiplied by, float32: one; one for each row; or one for each block.
        block: rows and columns of a block, where there are blocks; the last may be cut off.
        name: of the tensor, for errors.

    Raises:
        FormatError: the scales are not of a shape that fits.
    """
    type_ = fp8_type(dtype, scales)
    values = fp8_values(dtype)
    width = shape[-1] if shape else 1
    codes = data.reshape(-1, width)
    rows = len(codes)
    factors = _row_factors(scales, rows, width, block, name)
    out = np.empty((rows, width), np.float32 if type_ is GGMLType.F32 else np.uint16)
    step = max(1, _CHUNK // max(width, 1))
    for begin in range(0, rows, step):
        part = values[codes[begin : begin + step]]
        if factors is not None:
            part = part * factors(begin, min(begin + step, rows))
        if type_ is GGMLType.F32:
            out[begin : begin + step] = part
        elif type_ is GGMLType.F16:
            out[begin : begin + step] = part.astype(np.float16).view(np.uint16)
        else:
            out[begin : begin + step] = part.view(np.uint32) >> 16
    return out.reshape(-1).view(np.uint8)


def _row_factors(
    scales: NDArray[np.float32] | None,
    rows: int,
    width: int,
    block: tuple[int, int] | None,
    name: str,
) -> Callable[[int, int], NDArray[np.float32]] | None:
    """What gives the factors of some rows: float32 that multiplies [those rows, width]."""
    if scales is None:
        return None
    if not np.isfinite(scales).all():
        raise FormatError(f"the scales of {name!r} are not all finite")
    if scales.size == 1:
        one = scales.reshape(1, 1)
        return lambda begin, end: one
    if block is None:
        if scales.size != rows:
            raise FormatError(
                f"tensor {name!r} has {rows} rows, but scales of shape {scales.shape}"
            )
        each = scales.reshape(rows, 1)
        return lambda begin, end: each[begin:end]
    down, across = -(-rows // block[0]), -(-width // block[1])
    if scales.shape != (down, across):
        raise FormatError(
            f"tensor {name!r} has {rows} x {width} weights in blocks of {block[0]} x {block[1]}, "
            f"but scales of shape {scales.shape}, not {(down, across)}"
        )
    wide = np.repeat(scales, block[1], axis=1)[:, :width]
    return lambda begin, end: wide[np.arange(begin, end) // block[0]]
