"""Decodes four-bit floats with scales of eight bits, and types of two and three levels.

Each decoder fills a float32 array with the weights of a run of blocks. They know neither shapes
nor files; `quants` picks them and cuts the work into pieces.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants_legacy import Decoder

__all__ = ["FP4_LEVELS", "SMALL_DECODERS", "e8m0_halves", "ue4m3_halves"]

FP4_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the value of each E2M1 number, by its bits; scales are halved for it.

Source: OCP Microscaling Formats (MX) Specification 1.0.
"""


def e8m0_halves(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Half of each E8M0 scale, 2 ** (bits - 128): float32, exact and finite for every byte."""
    wide = bits.astype(np.uint32)
    # the smallest two have no float32 with a full exponent
    return np.where(wide < 2, 0x200000 << wide, (wide - 1) << 23).astype(np.uint32).view(np.float32)


def ue4m3_halves(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Half of each unsigned E4M3 scale: float32. 127 is 0 and bit 7 nothing, as in ggml."""
    exponent, mantissa = bits >> 3 & 15, (bits & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent.astype(np.int32) - 8)
    value = np.where(exponent == 0, np.ldexp(mantissa, -10), normal)
    return np.where(bits == 127, 0, value).astype(np.float32)


def _scale(field: NDArray[np.float16]) -> NDArray[np.float32]:
    """A float16 field as a float32 column, [n, 1]."""
    return field.astype(np.float32)[:, None]


# Four-bit floats


def _decode_mxfp4(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    levels, packed = np.array(FP4_LEVELS, np.float32), blocks["qs"]
    out[:, :16] = levels[packed & 15]
    out[:, 16:] = levels[packed >> 4]
    out *= e8m0_halves(blocks["e"])[:, None]


def _decode_nvfp4(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    levels, packed = np.array(FP4_LEVELS, np.float32), blocks["qs"]
    parts = out.reshape(-1, 4, 16)
    parts[:, :, :8] = levels[packed & 15]
    parts[:, :, 8:] = levels[packed >> 4]
    parts *= ue4m3_halves(blocks["scales"])[:, :, None]


# Two and three levels


def _decode_tq1_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    # A byte is a fraction of 256 whose digits to the base 3 are five weights (four at the end):
    # times 3 ** k, its leading digit is the k-th of them.
    for field, begin, digits in (("q5", 0, 5), ("q5b", 160, 5), ("q4", 240, 4)):
        packed = blocks[field]
        for k in range(digits):
            start = begin + k * packed.shape[1]
            turned = (packed * np.uint8(3**k)).astype(np.uint16)
            out[:, start : start + packed.shape[1]] = turned * 3 >> 8
    out -= 1
    out *= _scale(blocks["d"])


def _decode_tq2_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    runs = out.reshape(-1, 2, 4, 32)
    for pair in range(4):
        runs[:, :, pair] = blocks["qs"] >> (2 * pair) & 3
    out -= 1
    out *= _scale(blocks["d"])


def _decode_q1_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    out[...] = np.unpackbits(blocks["qs"], axis=1, bitorder="little")
    out *= 2
    out -= 1
    out *= _scale(blocks["d"])


def _decode_q2_0(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    quads = out.reshape(-1, 16, 4)
    for place in range(4):
        quads[:, :, place] = blocks["qs"] >> (2 * place) & 3
    out -= 1
    out *= _scale(blocks["d"])


SMALL_DECODERS: MappingProxyType[GGMLType, Decoder] = MappingProxyType(
    {
        GGMLType.TQ1_0: _decode_tq1_0,
        GGMLType.TQ2_0: _decode_tq2_0,
        GGMLType.MXFP4: _decode_mxfp4,
        GGMLType.NVFP4: _decode_nvfp4,
        GGMLType.Q1_0: _decode_q1_0,
        GGMLType.Q2_0: _decode_q2_0,
    }
)
