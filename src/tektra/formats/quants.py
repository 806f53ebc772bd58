"""Weights from bytes and back: the readable truth of every format that Tektra computes with.

Cuts the work into pieces that stay in the cache and hands them to the codec of the type. Knows
nothing of files or devices.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quant_blocks import BLOCK_DTYPES, as_blocks
from tektra.formats.quants_iq import IQ_DECODERS
from tektra.formats.quants_k import K_DECODERS
from tektra.formats.quants_legacy import LEGACY_DECODERS, LEGACY_ENCODERS, Decoder
from tektra.formats.quants_random import random_blocks
from tektra.formats.quants_small import SMALL_DECODERS

__all__ = ["DECODABLE_TYPES", "ENCODABLE_TYPES", "dequantize", "quantize", "random_blocks"]

_DECODERS: MappingProxyType[GGMLType, Decoder] = MappingProxyType(
    {**LEGACY_DECODERS, **K_DECODERS, **IQ_DECODERS, **SMALL_DECODERS}
)

DECODABLE_TYPES = frozenset(_DECODERS)
"""Types that `dequantize` and `random_blocks` take."""

ENCODABLE_TYPES = frozenset(LEGACY_ENCODERS)
"""Types that `quantize` takes."""

# Weights in a piece: their float32 form and the temporaries of a decoder fit the level-2 cache.
_PIECE = 1 << 16


def dequantize(
    data: NDArray[np.uint8], type: GGMLType, shape: tuple[int, ...], *, name: str = ""
) -> NDArray[np.float32]:
    """Decodes weights.

    Args:
        data: uint8, the stored bytes in any shape.
        type: how they are encoded.
        shape: shape of the weights, width last.
        name: of the tensor, for errors.

    Returns:
        float32 of `shape`, new memory.

    Raises:
        UnsupportedModelError: `type` cannot be decoded.
        FormatError: `data` is not of the size that `type` and `shape` ask for.
    """
    what = f"tensor {name!r}" if name else "a tensor"
    decode = _DECODERS.get(type)
    if decode is None:
        raise UnsupportedModelError(
            f"{what} has the type {type.name}, which cannot be decoded",
            remedy=f"use a model in one of: {_names(DECODABLE_TYPES)}",
        )
    out = np.empty(shape, np.float32)
    width = shape[-1] if shape else 1
    expected = math.prod(shape[:-1]) * type.row_bytes(width)
    if data.size != expected:
        raise FormatError(
            f"{what} of type {type.name} and shape {shape} takes {expected} bytes, not {data.size}"
        )
    blocks = as_blocks(np.ascontiguousarray(data), type)
    rows = out.reshape(-1, type.block_size)
    step = max(1, _PIECE // type.block_size)
    with np.errstate(invalid="ignore", over="ignore"):  # scales may be infinite or NaN
        for start in range(0, blocks.size, step):
            decode(blocks[start : start + step], rows[start : start + step])
    return out


def quantize(weights: NDArray[np.float32], type: GGMLType, *, name: str = "") -> NDArray[np.uint8]:
    """Encodes weights as ggml's reference quantizers do.

    Args:
        weights: float32 [..., width], width a multiple of the block size.
        type: one of `ENCODABLE_TYPES`.
        name: of the tensor, for errors.

    Returns:
        uint8 [..., bytes of a row].

    Raises:
        UnsupportedModelError: `type` cannot be encoded.
        FormatError: the width is not a multiple of the block size, or a weight is not finite or
            too large for the type (F32 and BF16 keep infinities and NaN; F16 keeps those that
            were there).
    """
    what = f"tensor {name!r}" if name else "a tensor"
    encode = LEGACY_ENCODERS.get(type)
    if encode is None:
        raise UnsupportedModelError(
            f"{what} cannot be encoded as {type.name}",
            remedy=f"use one of: {_names(ENCODABLE_TYPES)}",
        )
    out = np.empty((*weights.shape[:-1], type.row_bytes(weights.shape[-1])), np.uint8)
    blocks = as_blocks(out, type)
    rows = np.ascontiguousarray(weights, np.float32).reshape(-1, type.block_size)
    scales = [field for field in ("d", "m") if field in (BLOCK_DTYPES[type].names or ())]
    step = max(1, _PIECE // type.block_size)
    for start in range(0, blocks.size, step):
        piece, piece_out = rows[start : start + step], blocks[start : start + step]
        if scales and not np.isfinite(piece).all():
            raise FormatError(f"{what} has a weight that is not finite; {type.name} cannot keep it")
        with np.errstate(all="ignore"):
            encode(piece, piece_out)
        fits = all(np.isfinite(piece_out[field]).all() for field in scales)
        if type is GGMLType.F16:
            fits = bool((np.isfinite(piece_out["qs"]) | ~np.isfinite(piece)).all())
        if not fits:
            raise FormatError(f"{what} has a weight that is too large for {type.name}")
    return out


def _names(types: frozenset[GGMLType]) -> str:
    return ", ".join(t.name for t in sorted(types))
