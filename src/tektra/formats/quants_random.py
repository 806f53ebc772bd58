"""Random quantized weights of a given spread: for synthetic models and kernel tests.

Every bit pattern of the quants and of the packed scales occurs, so a kernel that reads a field
from the wrong place is seen. It knows nothing of models.
"""

from __future__ import annotations

import math
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import InvalidParameterError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quant_blocks import BLOCK_DTYPES, as_blocks
from tektra.formats.quant_codebooks import codebook
from tektra.formats.quants_iq import (
    IQ2_MAGNITUDES,
    IQ3_S_MAGNITUDES,
    IQ3_XXS_MAGNITUDES,
    IQ4_LEVELS,
)
from tektra.formats.quants_small import FP4_LEVELS, ue4m3_halves

__all__ = ["random_blocks"]


def _mean(low: int, high: int) -> float:
    """Mean of the integers from low to high."""
    return (low + high) / 2


def _power(low: int, high: int) -> float:
    """Mean square of the integers from low to high."""
    count = high - low + 1
    return (count * count - 1) / 12 + _mean(low, high) ** 2


def _spread(levels: tuple[int, int], scales: tuple[int, int]) -> float:
    """Standard deviation of scale * level, both uniform: what the format yields with d = 1."""
    mean = _mean(*levels) * _mean(*scales)
    return math.sqrt(_power(*levels) * _power(*scales) - mean * mean)


def _spread_with_minima(levels: tuple[int, int], scales: tuple[int, int]) -> float:
    """As `_spread`, with scale * level - mean(level) * minimum, minima spread like the scales."""
    variance = _power(*scales) - _mean(*scales) ** 2
    return math.sqrt(_spread(levels, scales) ** 2 + _mean(*levels) ** 2 * variance)


def _root(levels: tuple[int, ...], scales: tuple[float, ...] = (1,)) -> float:
    """Root mean square of scale * level, both one of these."""
    return math.sqrt(float(np.mean(np.square(levels)) * np.mean(np.square(scales))))


def _coded(type: GGMLType, magnitudes: tuple[int, ...], scales: tuple[float, ...]) -> float:
    """Root mean square of a scale times a level of any code word."""
    return _root(tuple(np.array(magnitudes)[codebook(type)].ravel().tolist()), scales)


_ONE = (1, 1)
_SYMMETRIC = MappingProxyType(
    {
        GGMLType.Q4_0: _spread((-8, 7), _ONE),
        GGMLType.Q5_0: _spread((-16, 15), _ONE),
        GGMLType.Q8_0: _spread((-127, 127), _ONE),
        GGMLType.Q3_K: _spread((-4, 3), (-32, 31)),
        GGMLType.Q6_K: _spread((-32, 31), (-128, 127)),
    }
)
"""Types of the form d * level: their spread at d = 1."""

_NIBBLES = tuple(s + 0.5 for s in range(16))
_ODD = tuple(range(1, 16, 2))
# Digits of any byte, as TQ1_0 reads them: 0, 1 and 2 are not quite as frequent.
_DIGITS = tuple((b * 3**k % 256 * 3 >> 8) - 1 for b in range(256) for k in range(5))


@cache
def _spread_of_table(type: GGMLType) -> float:
    """Spread at d = 1 of a type whose levels are no range, with scales of either sign."""
    match type:
        case GGMLType.IQ2_XXS | GGMLType.IQ2_XS | GGMLType.IQ2_S:
            return _coded(type, IQ2_MAGNITUDES, _NIBBLES) / 4
        case GGMLType.IQ3_XXS:
            return _coded(type, IQ3_XXS_MAGNITUDES, _NIBBLES) / 2
        case GGMLType.IQ3_S:
            return _coded(type, IQ3_S_MAGNITUDES, _NIBBLES) * 2
        case GGMLType.IQ1_S | GGMLType.IQ1_M:  # a level, and an eighth more or less
            levels = _coded(GGMLType.IQ1_S, (-1, 0, 1), _ODD)
            return math.hypot(levels, _root((1,), _ODD) / 8)
        case GGMLType.IQ4_NL:
            return _root(IQ4_LEVELS)
        case GGMLType.IQ4_XS:
            return _root(IQ4_LEVELS, tuple(range(-32, 32)))
        case GGMLType.TQ1_0:
            return _root(_DIGITS)
        case GGMLType.TQ2_0 | GGMLType.Q2_0:
            return _root((-1, 0, 1, 2))
        case GGMLType.Q1_0:
            return 1.0
        case _:
            return _root(FP4_LEVELS)


# Types with a minimum: (its field, its sign, mean level, spread at d = 1 when centred).
_CENTRED = MappingProxyType(
    {
        GGMLType.Q4_1: ("m", -1.0, 7.5, _spread((0, 15), _ONE)),
        GGMLType.Q5_1: ("m", -1.0, 15.5, _spread((0, 31), _ONE)),
        GGMLType.Q2_K: ("dmin", 1.0, 1.5, _spread_with_minima((0, 3), (0, 15))),
        GGMLType.Q4_K: ("dmin", 1.0, 7.5, _spread_with_minima((0, 15), (0, 63))),
        GGMLType.Q5_K: ("dmin", 1.0, 15.5, _spread_with_minima((0, 31), (0, 63))),
    }
)

_FLOATS = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})


def random_blocks(
    type: GGMLType, shape: tuple[int, ...], rng: np.random.Generator, std: float
) -> NDArray[np.uint8]:
    """Random weights of `type`, mean about 0 and standard deviation about `std`.

    Args:
        type: any type that `quants.dequantize` decodes.
        shape: shape of the weights; the last is the width.
        rng: source of randomness.
        std: standard deviation of the decoded weights.

    Returns:
        uint8 [*shape[:-1], bytes of a row].

    Raises:
        FormatError: the width is not a multiple of the block size.
        InvalidParameterError: `std` is not positive, or cannot be had with float16 scales.
        UnsupportedModelError: `type` cannot be decoded.
    """
    if type not in BLOCK_DTYPES:
        raise UnsupportedModelError(f"random weights of type {type.name} cannot be made")
    if not (math.isfinite(std) and std > 0):
        raise InvalidParameterError("std", f"must be a positive number, not {std!r}")
    row_bytes = type.row_bytes(shape[-1])
    if type in _FLOATS:
        weights = (std * rng.standard_normal(shape, np.float32)).astype(np.float32)
        if type is GGMLType.BF16:
            return (weights.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return weights.astype("<f4" if type is GGMLType.F32 else "<f2").view(np.uint8)

    data = rng.integers(0, 256, (*shape[:-1], row_bytes), np.uint8)
    blocks = as_blocks(data, type)
    # Scales differ from block to block by up to a factor of 3; the divisor keeps their mean square.
    factor = rng.uniform(0.5, 1.5, blocks.size) / math.sqrt(13 / 12)
    if type in _CENTRED:
        field, sign_of_minimum, mean_level, spread = _CENTRED[type]
        scale = factor * (std / spread)
        blocks[field] = (scale.astype(np.float16) * sign_of_minimum * mean_level).astype(np.float16)
    else:
        # Levels such as -8..7 lean to one side; the sign of the scale evens that out.
        sign = rng.choice(np.array([-1.0, 1.0]), blocks.size)
        spread = _SYMMETRIC[type] if type in _SYMMETRIC else _spread_of_table(type)
        scale = factor * sign * (std / spread)
        if type is GGMLType.Q8_0:
            np.maximum(blocks["qs"], -127, out=blocks["qs"])  # -128 is never written
    if type is GGMLType.MXFP4:
        blocks["e"] = _exponents(std / spread, rng, blocks.size)
        return data
    if type is GGMLType.NVFP4:
        blocks["scales"] = _ue4m3(np.abs(scale), blocks["scales"].shape[1])
        return data
    with np.errstate(over="ignore", under="ignore"):
        d = scale.astype(np.float16)
    if not (np.isfinite(d).all() and d.all()):
        raise InvalidParameterError("std", f"{std!r} cannot be had with the scales of {type.name}")
    if type is GGMLType.IQ1_M:  # a nibble on top of each of four fields
        nibbles = d.view(np.uint16)[:, None] >> np.array([0, 4, 8, 12], np.uint16) << 12
        blocks["scales"] = (blocks["scales"] & 0xFFF) | nibbles
    else:
        blocks["d"] = d
    return data


def _exponents(scale: float, rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """E8M0 scales of this mean square, halved: the powers of two below and above it, mixed."""
    low = math.floor(math.log2(scale))
    if not -126 < low + 1 < 126:
        raise InvalidParameterError("std", "cannot be had with the scales of MXFP4")
    share = (scale * scale / 4.0**low - 1) / 3  # of those that are twice as large
    return (low + 128 + (rng.random(count) < share)).astype(np.uint8)


def _ue4m3(scale: NDArray[np.float64], count: int) -> NDArray[np.uint8]:
    """The nearest unsigned E4M3 scales to twice these, `count` equal ones for each."""
    all_scales = ue4m3_halves(np.arange(127, dtype=np.uint8)).astype(np.float64)
    between = (all_scales[1:] + all_scales[:-1]) / 2
    if scale.min() < all_scales[1] or scale.max() > all_scales[-1]:
        raise InvalidParameterError("std", "cannot be had with the scales of NVFP4")
    return np.repeat(np.searchsorted(between, scale)[:, None], count, axis=1).astype(np.uint8)
