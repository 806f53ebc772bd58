"""Decodes the k-quants: super-blocks of 256 weights in groups of 16 or 32 with scales of their own.

Each decoder fills a float32 array with the weights of a run of super-blocks. They know neither
shapes nor files; `quants` picks them and cuts the work into pieces.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants_legacy import Decoder

__all__ = ["K_DECODERS"]


def _scale(field: NDArray[np.float16]) -> NDArray[np.float32]:
    """A float16 field as a float32 column, [n, 1]."""
    return field.astype(np.float32)[:, None]


def _unpack_two_bits(packed: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """`packed` [n, 2, 32] to `out` [n, 256]: half, then bit pair, then byte."""
    halves = out.reshape(-1, 2, 4, 32)
    for pair in range(4):
        halves[:, :, pair] = (packed >> (2 * pair)) & 3


def _six_bit_pairs(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The 8 scales and 8 minima of Q4_K and Q5_K from their 12 bytes: uint8 [n, 8] each.

    Bytes 0..3 hold scales 0..3 and bytes 4..7 minima 0..3 in their low six bits. Their top two
    bits are those of scales and minima 4..7, whose low four are the halves of bytes 8..11.
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (low & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (low >> 4) | (second >> 6 << 4)], axis=1)
    return scales, minima


def _decode_q2_k(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    _unpack_two_bits(blocks["qs"], out)
    scales = blocks["scales"]  # low half: scale, high half: minimum; one for 16 weights
    groups = out.reshape(-1, 16, 16)
    groups *= (_scale(blocks["d"]) * (scales & 15).astype(np.float32))[:, :, None]
    groups -= (_scale(blocks["dmin"]) * (scales >> 4).astype(np.float32))[:, :, None]


def _decode_q3_k(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    levels = np.empty((blocks.size, 256), np.uint8)
    _unpack_two_bits(blocks["qs"], levels)
    # Bit g of byte i is the third bit of weight i in the g-th run of 32.
    runs = levels.reshape(-1, 8, 32)
    for run in range(8):
        runs[:, run] |= (blocks["hmask"] >> run & 1) << 2
    out[...] = levels
    out -= 4
    # 16 scales of six bits: low halves, then high halves of bytes 0..7 are the low four bits;
    # bit pair k of bytes 8..11 is on top of scales 4k..4k+3. Stored with 32 added.
    packed = blocks["scales"]
    low, high = packed[:, 0:8], packed[:, 8:12]
    scales = np.concatenate([low & 15, low >> 4], axis=1)
    scales |= np.concatenate([(high >> (2 * pair) & 3) << 4 for pair in range(4)], axis=1)
    signed = scales.astype(np.float32) - 32
    groups = out.reshape(-1, 16, 16)
    groups *= (_scale(blocks["d"]) * signed)[:, :, None]


def _apply_six_bit_pairs(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    scales, minima = _six_bit_pairs(blocks["scales"])
    groups = out.reshape(-1, 8, 32)
    groups *= (_scale(blocks["d"]) * scales.astype(np.float32))[:, :, None]
    groups -= (_scale(blocks["dmin"]) * minima.astype(np.float32))[:, :, None]


def _decode_q4_k(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    packed = blocks["qs"]
    pairs = out.reshape(-1, 4, 2, 32)
    pairs[:, :, 0] = packed & 15
    pairs[:, :, 1] = packed >> 4
    _apply_six_bit_pairs(blocks, out)


def _decode_q5_k(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    packed, high = blocks["qs"], blocks["qh"]
    groups = out.reshape(-1, 8, 32)
    for group in range(8):
        low = packed[:, group // 2] >> (4 * (group % 2)) & 15
        groups[:, group] = low | ((high >> group & 1) << 4)
    _apply_six_bit_pairs(blocks, out)


def _decode_q6_k(blocks: NDArray[Any], out: NDArray[np.float32]) -> None:
    low, high = blocks["ql"], blocks["qh"]
    runs = out.reshape(-1, 2, 4, 32)
    for run in range(4):
        nibbles = low[:, :, 32 * (run % 2) : 32 * (run % 2) + 32] >> (4 * (run // 2)) & 15
        runs[:, :, run] = nibbles | ((high >> (2 * run) & 3) << 4)
    out -= 32
    groups = out.reshape(-1, 16, 16)
    groups *= (_scale(blocks["d"]) * blocks["scales"].astype(np.float32))[:, :, None]


K_DECODERS: MappingProxyType[GGMLType, Decoder] = MappingProxyType(
    {
        GGMLType.Q2_K: _decode_q2_k,
        GGMLType.Q3_K: _decode_q3_k,
        GGMLType.Q4_K: _decode_q4_k,
        GGMLType.Q5_K: _decode_q5_k,
        GGMLType.Q6_K: _decode_q6_k,
    }
)
