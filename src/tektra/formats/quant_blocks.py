"""The quantized blocks as NumPy structs: which field of a block lies where.

One struct for each type that Tektra decodes; all are packed, little-endian and without padding.
It does not know what the fields mean (see `quants_legacy`, `quants_k`, `quants_iq` and
`quants_small`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType

__all__ = ["BLOCK_DTYPES", "as_blocks"]

# Source: the block structs of ggml (ggml-common.h). `d` and `m` (or `dmin`) are the scale and the
# minimum of a block, `qs` the low bits of the weights, `qh` or `hmask` their high bits.
BLOCK_DTYPES = MappingProxyType(
    {
        GGMLType.F32: np.dtype([("qs", "<f4", (1,))]),
        GGMLType.F16: np.dtype([("qs", "<f2", (1,))]),
        GGMLType.BF16: np.dtype([("qs", "<u2", (1,))]),
        GGMLType.Q4_0: np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
        GGMLType.Q4_1: np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,))]),
        GGMLType.Q5_0: np.dtype([("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))]),
        GGMLType.Q5_1: np.dtype(
            [("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))]
        ),
        GGMLType.Q8_0: np.dtype([("d", "<f2"), ("qs", "i1", (32,))]),
        GGMLType.Q2_K: np.dtype(
            [("scales", "u1", (16,)), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")]
        ),
        GGMLType.Q3_K: np.dtype(
            [("hmask", "u1", (32,)), ("qs", "u1", (2, 32)), ("scales", "u1", (12,)), ("d", "<f2")]
        ),
        GGMLType.Q4_K: np.dtype(
            [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,)), ("qs", "u1", (4, 32))]
        ),
        GGMLType.Q5_K: np.dtype(
            [
                ("d", "<f2"),
                ("dmin", "<f2"),
                ("scales", "u1", (12,)),
                ("qh", "u1", (32,)),
                ("qs", "u1", (4, 32)),
            ]
        ),
        GGMLType.Q6_K: np.dtype(
            [("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", (16,)), ("d", "<f2")]
        ),
        GGMLType.IQ2_XXS: np.dtype([("d", "<f2"), ("qs", "<u4", (8, 2))]),
        GGMLType.IQ2_XS: np.dtype([("d", "<f2"), ("qs", "<u2", (32,)), ("scales", "u1", (8,))]),
        GGMLType.IQ2_S: np.dtype(
            [
                ("d", "<f2"),
                ("qs", "u1", (32,)),
                ("signs", "u1", (32,)),
                ("qh", "u1", (8,)),
                ("scales", "u1", (8,)),
            ]
        ),
        GGMLType.IQ3_XXS: np.dtype([("d", "<f2"), ("qs", "u1", (64,)), ("scales", "<u4", (8,))]),
        GGMLType.IQ3_S: np.dtype(
            [
                ("d", "<f2"),
                ("qs", "u1", (64,)),
                ("qh", "u1", (8,)),
                ("signs", "u1", (32,)),
                ("scales", "u1", (4,)),
            ]
        ),
        GGMLType.IQ1_S: np.dtype([("d", "<f2"), ("qs", "u1", (32,)), ("qh", "<u2", (8,))]),
        GGMLType.IQ1_M: np.dtype(
            [("qs", "u1", (32,)), ("qh", "u1", (16,)), ("scales", "<u2", (4,))]
        ),
        GGMLType.IQ4_NL: np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
        GGMLType.IQ4_XS: np.dtype(
            [("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (8, 16))]
        ),
        GGMLType.TQ1_0: np.dtype(
            [("q5", "u1", (32,)), ("q5b", "u1", (16,)), ("q4", "u1", (4,)), ("d", "<f2")]
        ),
        GGMLType.TQ2_0: np.dtype([("qs", "u1", (2, 32)), ("d", "<f2")]),
        GGMLType.MXFP4: np.dtype([("e", "u1"), ("qs", "u1", (16,))]),
        GGMLType.NVFP4: np.dtype([("scales", "u1", (4,)), ("qs", "u1", (4, 8))]),
        GGMLType.Q1_0: np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
        GGMLType.Q2_0: np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
    }
)
"""Block structs by type. Its keys are the types that `quants` decodes."""


def as_blocks(data: NDArray[np.uint8], type: GGMLType) -> NDArray[Any]:
    """Views contiguous bytes as a 1-D array of blocks of `type`."""
    return data.reshape(-1).view(BLOCK_DTYPES[type])
