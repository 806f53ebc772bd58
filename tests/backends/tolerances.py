"""How far a backend may be from the truth: one table, by what is computed and in which format.

``largest`` bounds the largest difference as a share of the largest value, ``rms`` the root mean
square of the differences as a share of that of the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType

__all__ = ["LINEAR", "TOLERANCES", "WEIGHT_TYPES", "Tolerance", "assert_close"]


class Tolerance(NamedTuple):
    largest: float
    rms: float


_FLOAT = Tolerance(largest=1e-5, rms=2e-6)
_QUANTIZED = Tolerance(largest=0.03, rms=0.01)

LINEAR: Mapping[GGMLType, Tolerance] = MappingProxyType(
    {
        # Activations stay float32; only the order of a sum differs.
        GGMLType.F32: _FLOAT,
        GGMLType.F16: _FLOAT,
        GGMLType.BF16: _FLOAT,
        # Activations may be rounded to int8 in groups of 32 or more, which makes 0.5 % to 0.8 %
        # root mean square on random data, whatever the weights are.
        GGMLType.Q4_0: _QUANTIZED,
        GGMLType.Q4_1: _QUANTIZED,
        GGMLType.Q5_0: _QUANTIZED,
        GGMLType.Q5_1: _QUANTIZED,
        GGMLType.Q8_0: _QUANTIZED,
        GGMLType.Q2_K: _QUANTIZED,
        GGMLType.Q3_K: _QUANTIZED,
        GGMLType.Q4_K: _QUANTIZED,
        GGMLType.Q5_K: _QUANTIZED,
        GGMLType.Q6_K: _QUANTIZED,
        GGMLType.IQ2_XXS: _QUANTIZED,
        GGMLType.IQ2_XS: _QUANTIZED,
        GGMLType.IQ2_S: _QUANTIZED,
        GGMLType.IQ3_XXS: _QUANTIZED,
        GGMLType.IQ3_S: _QUANTIZED,
        GGMLType.IQ1_S: _QUANTIZED,
        GGMLType.IQ1_M: _QUANTIZED,
        GGMLType.IQ4_NL: _QUANTIZED,
        GGMLType.IQ4_XS: _QUANTIZED,
        GGMLType.TQ1_0: _QUANTIZED,
        GGMLType.TQ2_0: _QUANTIZED,
        GGMLType.MXFP4: _QUANTIZED,
        GGMLType.NVFP4: _QUANTIZED,
        GGMLType.Q1_0: _QUANTIZED,
        GGMLType.Q2_0: _QUANTIZED,
    }
)
"""Products with weights of a type."""

WEIGHT_TYPES = tuple(LINEAR)
"""Every type that every backend computes with."""

TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        # A lookup decodes weights and rounds nothing else.
        "embed": Tolerance(largest=1e-6, rms=1e-6),
        "select": Tolerance(largest=0.0, rms=0.0),
        "add": Tolerance(largest=0.0, rms=0.0),
        "mul": Tolerance(largest=0.0, rms=0.0),
        "scale": Tolerance(largest=0.0, rms=0.0),
        "softcap": _FLOAT,
        "activate": _FLOAT,
        "gated": _FLOAT,
        "rms_norm": _FLOAT,
        "layer_norm": _FLOAT,
        "moe": _FLOAT,
        # Rows are rounded to int8 before gate and up and again before down: the share of one
        # quantized linear thrice, which is independent each time.
        "moe-int8": Tolerance(largest=0.05, rms=0.017),
        "rope": _FLOAT,
        # Keys and values are float16 on both sides; the softmax is float32.
        "attention": Tolerance(largest=2e-5, rms=1e-5),
        # Both sides keep the same int8 and the same scales. Queries and weights may be rounded to
        # 15 bits before they are multiplied, by 0.29 / 32767 of the largest (root mean square).
        # Weights: 5e-5 over the 32 of a block, and five times that for the worst of many results.
        # Queries: an element is off by 2.4e-5 where the largest is 2.7, a score by that times the
        # length of a key (8 for 64 elements) times the scale, 0.5 at most in the cases: 1e-4,
        # which is what the weights are then off by.
        "attention-int8": Tolerance(largest=2.5e-4, rms=1e-4),
    }
)
"""Every other op."""


def assert_close(
    out: NDArray[np.float32], expected: NDArray[np.floating], tolerance: Tolerance, what: str
) -> None:
    """Fails with both figures when an output is further off than it may be."""
    assert out.shape == expected.shape, what
    assert np.isfinite(out).all(), f"{what}: not finite"
    difference = out.astype(np.float64) - expected.astype(np.float64)
    scale = float(np.abs(expected).max()) or 1.0
    power = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))) or 1.0
    largest = float(np.abs(difference).max()) / scale
    rms = float(np.sqrt(np.mean(np.square(difference)))) / power
    found = f"{what}: largest {largest:.3g} (may be {tolerance.largest:g}), "
    found += f"rms {rms:.3g} (may be {tolerance.rms:g})"
    assert largest <= tolerance.largest, found
    assert rms <= tolerance.rms, found
