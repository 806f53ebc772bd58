"""Random quantized weights of a given spread: for synthetic models and kernel tests.

Every bit pattern of the quants and of the packed scales occurs, so a kernel that reads a field
from the wrong place is seen. It knows nothing of models.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import InvalidParameterError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quant_blocks import BLOCK_DTYPES, as_blocks

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
    if type in _SYMMETRIC:
        # Levels such as -8..7 lean to one side; the sign of the scale evens that out.
        sign = rng.choice(np.array([-1.0, 1.0]), blocks.size)
        scale = factor * sign * (std / _SYMMETRIC[type])
        if type is GGMLType.Q8_0:
            np.maximum(blocks["qs"], -127, out=blocks["qs"])  # -128 is never written
    else:
        field, sign_of_minimum, mean_level, spread = _CENTRED[type]
        scale = factor * (std / spread)
        blocks[field] = (scale.astype(np.float16) * sign_of_minimum * mean_level).astype(np.float16)
    with np.errstate(over="ignore", under="ignore"):
        blocks["d"] = scale.astype(np.float16)
    if not (np.isfinite(blocks["d"]).all() and blocks["d"].all()):
        raise InvalidParameterError("std", f"{std!r} cannot be had with the scales of {type.name}")
    return data
