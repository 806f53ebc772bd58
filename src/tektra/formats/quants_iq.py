"""Decodes the IQ types: code words of a codebook with signs, or levels of a table that is not even.

Each decoder fills a float32 array with the weights of a run of blocks. They know neither shapes
nor files; `quants` picks them and cuts the work into pieces. Where a weight is a product of several
factors, all but the last product are exact, so their order does not matter.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType
from tektra.formats.quant_codebooks import codebook
from tektra.formats.quants_legacy import Decoder

__all__ = ["IQ2_MAGNITUDES", "IQ3_S_MAGNITUDES", "IQ3_XXS_MAGNITUDES", "IQ4_LEVELS", "IQ_DECODERS"]

IQ2_MAGNITUDES = (8, 25, 43)
IQ3_XXS_MAGNITUDES = (4, 12, 20, 28, 36, 44, 52, 62)
IQ3_S_MAGNITUDES = (1, 3, 5, 7, 9, 11, 13, 15)
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the levels stand for, by number. Source: ggml-common.h."""

_DELTA = np.float32(0.125)
_QUARTER = np.float32(0.25)

# [byte, i]: -1 where bit i of the byte is set, else 1
_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_SIGNS = np.where(_SET, np.float32(-1), np.float32(1))
_SIGNS.flags.writeable = False


def _scale(field: NDArray[np.float16]) -> NDArray[np.float32]:
    """A float16 field as a float32 column, [n, 1]."""
    return field.astype(np.float32)[:, None]


def _fields(packed: NDArray[Any], shifts: tuple[int, ...], mask: int) -> NDArray[Any]:
    """[...] to [..., len(shifts)]: fields of integers."""
    fields: NDArray[Any] = packed[..., None] >> np.array(shifts, packed.dtype)
    fields &= packed.dtype.type(mask)
    return fields


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[n, k] bytes to [n, 2 k] numbers, low halves first."""
    return _fields(packed, (0, 4), 15).reshape(len(packed), -1).astype(np.float32)


def _even(seven: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of signs from their lower seven bits: the number of minus signs is even."""
    bits: NDArray[np.uint8] = seven.astype(np.uint8)
    parity = bits ^ bits >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    bits ^= parity << 7
    return bits


def _words(
    type: GGMLType, magnitudes: tuple[int, ...], index: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """Fills `out` with the magnitudes of the code words `index` [n, words of a block]."""
    levels = codebook(type)
    groups = out.reshape(*index.shape, levels.shape[1])
    groups[...] = np.array(magnitudes, np.float32)[levels][index]


def _finish(out: NDArray[np.float32], signs: NDArray[np.uint8], scale: NDArray[np.float32]) -> None:
    """Signs are bytes [n, 32], scales [n, 8] or [n, 16] for so many equal parts of a block."""
    groups = out.reshape(*signs.shape, 8)
    groups *= _SIGNS[signs]
    parts = out.reshape(*scale.shape, -1)
    parts *= scale[:, :, None]


def _decode_iq2_xxs(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    # Of 32 weights: four code words, then four times seven signs with the scale on top.
    words, rest = blocks["qs"][:, :, 0], blocks["qs"][:, :, 1]
    index = _fields(words, (0, 8, 16, 24), 255).reshape(len(blocks), 32)
    signs = _even(_fields(rest, (0, 7, 14, 21), 127)).reshape(len(blocks), 32)
    _words(GGMLType.IQ2_XXS, IQ2_MAGNITUDES, index, out)
    half = np.float32(0.5)
    _finish(out, signs, _scale(blocks["d"]) * (half + (rest >> 28).astype(np.float32)) * _QUARTER)


def _decode_iq2_xs(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    packed = blocks["qs"]  # nine bits of a code word, seven signs
    _words(GGMLType.IQ2_XS, IQ2_MAGNITUDES, packed & 511, out)
    scale = _scale(blocks["d"]) * (np.float32(0.5) + _nibbles(blocks["scales"])) * _QUARTER
    _finish(out, _even(packed >> 9), scale)


def _decode_iq2_s(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    high = _fields(blocks["qh"], (0, 2, 4, 6), 3).reshape(len(blocks), 32)
    index = blocks["qs"] | high.astype(np.uint16) << 8
    _words(GGMLType.IQ2_S, IQ2_MAGNITUDES, index, out)
    scale = _scale(blocks["d"]) * (np.float32(0.5) + _nibbles(blocks["scales"])) * _QUARTER
    _finish(out, blocks["signs"], scale)


def _decode_iq3_xxs(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _words(GGMLType.IQ3_XXS, IQ3_XXS_MAGNITUDES, blocks["qs"], out)
    rest = blocks["scales"]  # of 32 weights: four times seven signs, and the scale on top
    signs = _even(_fields(rest, (0, 7, 14, 21), 127)).reshape(len(blocks), 32)
    half = np.float32(0.5)
    _finish(out, signs, _scale(blocks["d"]) * (half + (rest >> 28).astype(np.float32)) * half)


def _decode_iq3_s(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    high = np.unpackbits(blocks["qh"], axis=1, bitorder="little")
    _words(GGMLType.IQ3_S, IQ3_S_MAGNITUDES, blocks["qs"] | high.astype(np.uint16) << 8, out)
    _finish(out, blocks["signs"], _scale(blocks["d"]) * (1 + 2 * _nibbles(blocks["scales"])))


def _decode_iq1_s(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    # Of 32 weights: three bits of each of four code words, three bits of scale, the sign of delta.
    rest = blocks["qh"]
    high = _fields(rest, (0, 3, 6, 9), 7).reshape(len(blocks), 32)
    _words(GGMLType.IQ1_S, (-1, 0, 1), blocks["qs"] | high << 8, out)
    groups = out.reshape(-1, 8, 32)
    groups += np.where(rest >> 15, -_DELTA, _DELTA)[:, :, None]
    scale = _scale(blocks["d"]) * (2 * (rest >> 12 & 7) + 1).astype(np.float32)
    groups *= scale[:, :, None]


def _decode_iq1_m(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    # Of each code word: three more bits and the sign of delta.
    rest = _fields(blocks["qh"], (0, 4), 15).reshape(len(blocks), 32)
    index = blocks["qs"] | (rest & 7).astype(np.uint16) << 8
    _words(GGMLType.IQ1_S, (-1, 0, 1), index, out)
    groups = out.reshape(-1, 32, 8)
    groups += np.where(rest >> 3, -_DELTA, _DELTA)[:, :, None]
    # Four integers hold twelve bits of scales each, and on top a nibble of the float16.
    packed = blocks["scales"]
    nibbles = packed >> 12 << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(nibbles, axis=1).view(np.float16)
    scale = 2 * _fields(packed, (0, 3, 6, 9), 7).reshape(len(blocks), 16) + 1
    parts = out.reshape(-1, 16, 16)
    parts *= (_scale(d) * scale.astype(np.float32))[:, :, None]


def _unpack_levels(packed: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """[..., 16] bytes to the levels of [..., 32]: low halves first."""
    levels = np.array(IQ4_LEVELS, np.float32)
    runs = out.reshape(*packed.shape[:-1], 2, 16)
    runs[..., 0, :] = levels[packed & 15]
    runs[..., 1, :] = levels[packed >> 4]


def _decode_iq4_nl(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_levels(blocks["qs"], out)
    out *= _scale(blocks["d"])


def _decode_iq4_xs(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_levels(blocks["qs"], out)
    high = _fields(blocks["scales_h"], tuple(range(0, 16, 2)), 3).astype(np.float32)
    scale = _nibbles(blocks["scales_l"]) + 16 * high - 32
    groups = out.reshape(-1, 8, 32)
    groups *= (_scale(blocks["d"]) * scale)[:, :, None]


IQ_DECODERS: MappingProxyType[GGMLType, Decoder] = MappingProxyType(
    {
        GGMLType.IQ2_XXS: _decode_iq2_xxs,
        GGMLType.IQ2_XS: _decode_iq2_xs,
        GGMLType.IQ3_XXS: _decode_iq3_xxs,
        GGMLType.IQ1_S: _decode_iq1_s,
        GGMLType.IQ4_NL: _decode_iq4_nl,
        GGMLType.IQ3_S: _decode_iq3_s,
        GGMLType.IQ2_S: _decode_iq2_s,
        GGMLType.IQ4_XS: _decode_iq4_xs,
        GGMLType.IQ1_M: _decode_iq1_m,
    }
)
