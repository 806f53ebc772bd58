"""The element types that a GGUF tensor can have: ids, names and block sizes.

Knows how many bytes a row takes, and which ids once existed and were withdrawn. It does not know
how a block is decoded (see `quants`) nor where a tensor lies in a file.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

from tektra.errors import FormatError, UnsupportedModelError

__all__ = ["REMOVED_TYPES", "GGMLType", "ggml_type_from_id"]


class GGMLType(IntEnum):
    """A ggml element type; the value is the id that is stored in GGUF files.

    Source: ``enum ggml_type`` and the block structs of ggml (ggml.h, ggml-common.h).
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def block_size(self) -> int:
        """Number of weights in one block."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Number of bytes that one block takes."""
        return _BLOCKS[self][1]

    @property
    def bits_per_weight(self) -> float:
        """Average number of bits that one weight takes, scales included."""
        return 8.0 * self.block_bytes / self.block_size

    def row_bytes(self, width: int) -> int:
        """Number of bytes of a row of `width` weights.

        Raises:
            FormatError: `width` is negative or not a multiple of the block size.
        """
        blocks, rest = divmod(width, self.block_size)
        if rest or width < 0:
            raise FormatError(
                f"a row of {width} weights cannot be {self.name}: "
                f"the width must be a multiple of {self.block_size}"
            )
        return blocks * self.block_bytes


# (weights, bytes) of a block. Where a sum stands, its terms are the block's fields in order.
_BLOCKS = MappingProxyType(
    {
        GGMLType.F32: (1, 4),
        GGMLType.F16: (1, 2),
        GGMLType.Q4_0: (32, 2 + 16),
        GGMLType.Q4_1: (32, 2 + 2 + 16),
        GGMLType.Q5_0: (32, 2 + 4 + 16),
        GGMLType.Q5_1: (32, 2 + 2 + 4 + 16),
        GGMLType.Q8_0: (32, 2 + 32),
        GGMLType.Q8_1: (32, 2 + 2 + 32),
        GGMLType.Q2_K: (256, 16 + 64 + 2 + 2),
        GGMLType.Q3_K: (256, 32 + 64 + 12 + 2),
        GGMLType.Q4_K: (256, 2 + 2 + 12 + 128),
        GGMLType.Q5_K: (256, 2 + 2 + 12 + 32 + 128),
        GGMLType.Q6_K: (256, 128 + 64 + 16 + 2),
        GGMLType.Q8_K: (256, 4 + 256 + 32),
        GGMLType.IQ2_XXS: (256, 2 + 64),
        GGMLType.IQ2_XS: (256, 2 + 64 + 8),
        GGMLType.IQ3_XXS: (256, 2 + 64 + 32),
        GGMLType.IQ1_S: (256, 2 + 32 + 16),
        GGMLType.IQ4_NL: (32, 2 + 16),
        GGMLType.IQ3_S: (256, 2 + 64 + 8 + 32 + 4),
        GGMLType.IQ2_S: (256, 2 + 64 + 8 + 8),
        GGMLType.IQ4_XS: (256, 2 + 2 + 4 + 128),
        GGMLType.I8: (1, 1),
        GGMLType.I16: (1, 2),
        GGMLType.I32: (1, 4),
        GGMLType.I64: (1, 8),
        GGMLType.F64: (1, 8),
        GGMLType.IQ1_M: (256, 32 + 16 + 8),
        GGMLType.BF16: (1, 2),
        GGMLType.TQ1_0: (256, 48 + 4 + 2),
        GGMLType.TQ2_0: (256, 64 + 2),
        GGMLType.MXFP4: (32, 1 + 16),
        GGMLType.NVFP4: (64, 4 + 32),
        GGMLType.Q1_0: (128, 2 + 16),
        GGMLType.Q2_0: (64, 2 + 16),
    }
)

REMOVED_TYPES = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }
)
"""Ids that ggml has withdrawn, with the names they had."""


def ggml_type_from_id(type_id: int, *, tensor: str) -> GGMLType:
    """The type with the id `type_id`.

    Args:
        type_id: as stored in the file.
        tensor: name of the tensor that has it, for the error.

    Raises:
        UnsupportedModelError: the id belongs to a type that ggml has withdrawn.
        FormatError: there is no such id.
    """
    try:
        return GGMLType(type_id)
    except ValueError:
        pass
    if type_id in REMOVED_TYPES:
        raise UnsupportedModelError(
            f"tensor {tensor!r} has the type {REMOVED_TYPES[type_id]} (id {type_id}), "
            "which was withdrawn from GGUF",
            remedy="get this model quantized anew, for instance as Q4_0 or IQ4_NL",
        )
    raise FormatError(
        f"tensor {tensor!r} has the unknown type id {type_id}",
        remedy="the file is damaged, or newer than this version of Tektra",
    )
