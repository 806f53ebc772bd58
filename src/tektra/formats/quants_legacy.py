"""Decodes and encodes the formats with one scale (and minimum) for 32 weights, and plain floats.

Each decoder fills a float32 array with the weights of a run of blocks; each encoder does the
reverse. They know neither shapes nor files; `quants` picks them and cuts the work into pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType

__all__ = ["LEGACY_DECODERS", "LEGACY_ENCODERS", "Decoder", "Encoder"]

Decoder: TypeAlias = Callable[[NDArray[Any], NDArray[np.float32]], None]
"""(blocks [n] of the type's struct, out float32 [n, block_size]) -> None; fills `out`."""

Encoder: TypeAlias = Callable[[NDArray[np.float32], NDArray[Any]], None]
"""(weights float32 [n, block_size], out [n] of the type's struct) -> None; fills `out`."""


def _scale(field: NDArray[np.float16]) -> NDArray[np.float32]:
    """A float16 field as a float32 column, [n, 1]."""
    return field.astype(np.float32)[:, None]


# Decoders


def _decode_float(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    out[...] = blocks["qs"]


def _decode_bf16(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    np.left_shift(blocks["qs"], 16, out=out.view(np.uint32), dtype=np.uint32)


def _unpack_nibbles(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Weights 0..15 are the low halves of the bytes, 16..31 the high ones."""
    packed = blocks["qs"]
    out[:, :16] = packed & 15
    out[:, 16:] = packed >> 4


def _unpack_five_bits(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    """As nibbles, with bit i of `qh` the fifth bit of weight i."""
    packed = blocks["qs"]
    high = np.unpackbits(blocks["qh"], axis=-1, bitorder="little") << 4
    out[:, :16] = (packed & 15) | high[:, :16]
    out[:, 16:] = (packed >> 4) | high[:, 16:]


def _decode_q4_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_nibbles(blocks, out)
    out -= 8
    out *= _scale(blocks["d"])


def _decode_q4_1(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_nibbles(blocks, out)
    out *= _scale(blocks["d"])
    out += _scale(blocks["m"])


def _decode_q5_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_five_bits(blocks, out)
    out -= 16
    out *= _scale(blocks["d"])


def _decode_q5_1(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_five_bits(blocks, out)
    out *= _scale(blocks["d"])
    out += _scale(blocks["m"])


def _decode_q8_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    out[...] = blocks["qs"]
    out *= _scale(blocks["d"])


LEGACY_DECODERS: MappingProxyType[GGMLType, Decoder] = MappingProxyType(
    {
        GGMLType.F32: _decode_float,
        GGMLType.F16: _decode_float,
        GGMLType.BF16: _decode_bf16,
        GGMLType.Q4_0: _decode_q4_0,
        GGMLType.Q4_1: _decode_q4_1,
        GGMLType.Q5_0: _decode_q5_0,
        GGMLType.Q5_1: _decode_q5_1,
        GGMLType.Q8_0: _decode_q8_0,
    }
)


# Encoders. All arithmetic is float32 and in ggml's order (quantize_row_*_ref in ggml-quants.c), as
# the rounding of a weight that lies between two steps depends on it. They divide by zero and
# overflow as it comes: the caller has turned the warnings off and looks for infinities.


def _encode_float(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    out["qs"] = weights


def _encode_bf16(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    bits = weights.view(np.uint32)
    # Round to nearest, ties to even: the carry of the addition is the rounding.
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    # A NaN must not round to infinity: cut it, and set the bit that makes it quiet.
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    out["qs"] = np.where(is_nan, (bits >> 16) | 0x40, rounded)


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 where that is not finite: such a scale is 0 as float16 anyway."""
    inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _largest(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight of the largest magnitude of each block, with its sign: [n, 1]."""
    at = np.abs(weights).argmax(axis=1, keepdims=True)
    return np.take_along_axis(weights, at, axis=1)


def _levels(steps: NDArray[np.float32], top: int) -> NDArray[np.uint8]:
    """Non-negative `steps` cut to whole levels 0..top."""
    return np.minimum(steps, np.float32(top)).astype(np.uint8)


def _pack_nibbles(levels: NDArray[np.uint8], out: NDArray[Any]) -> None:
    out["qs"] = (levels[:, :16] & 15) | (levels[:, 16:] << 4)


def _pack_five_bits(levels: NDArray[np.uint8], out: NDArray[Any]) -> None:
    _pack_nibbles(levels, out)
    out["qh"] = np.packbits(levels >> 4, axis=1, bitorder="little")


def _encode_symmetric(
    weights: NDArray[np.float32], out: NDArray[Any], half: int
) -> NDArray[np.uint8]:
    """The weight of the largest magnitude becomes level 0; zero is level `half`."""
    scale = _largest(weights) / np.float32(-half)
    out["d"] = scale[:, 0]
    return _levels(weights * _inverse(scale) + np.float32(half + 0.5), 2 * half - 1)


def _encode_affine(weights: NDArray[np.float32], out: NDArray[Any], top: int) -> NDArray[np.uint8]:
    """The least weight becomes level 0 and the greatest level `top`."""
    low = weights.min(axis=1, keepdims=True)
    scale = (weights.max(axis=1, keepdims=True) - low) / np.float32(top)
    out["d"] = scale[:, 0]
    out["m"] = low[:, 0]
    return _levels((weights - low) * _inverse(scale) + np.float32(0.5), top)


def _encode_q4_0(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    _pack_nibbles(_encode_symmetric(weights, out, 8), out)


def _encode_q4_1(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    _pack_nibbles(_encode_affine(weights, out, 15), out)


def _encode_q5_0(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    _pack_five_bits(_encode_symmetric(weights, out, 16), out)


def _encode_q5_1(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    _pack_five_bits(_encode_affine(weights, out, 31), out)


def _encode_q8_0(weights: NDArray[np.float32], out: NDArray[Any]) -> None:
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    out["d"] = scale[:, 0]
    steps = weights * _inverse(scale)
    # Half away from zero. Adding 0.5 first would round up what lies just below a half.
    whole = np.trunc(steps)
    out["qs"] = whole + np.trunc(2 * (steps - whole))


LEGACY_ENCODERS: MappingProxyType[GGMLType, Encoder] = MappingProxyType(
    {
        GGMLType.F32: _encode_float,
        GGMLType.F16: _encode_float,
        GGMLType.BF16: _encode_bf16,
        GGMLType.Q4_0: _encode_q4_0,
        GGMLType.Q4_1: _encode_q4_1,
        GGMLType.Q5_0: _encode_q5_0,
        GGMLType.Q5_1: _encode_q5_1,
        GGMLType.Q8_0: _encode_q8_0,
    }
)
