"""The weights of a checkpoint as GGUF's element types: what is stored, or what it stands for.

A checkpoint may keep a matrix in several tensors (scales, zero points); here it is one again. It
does not know what a matrix is for, or what it is called in GGUF.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.checkpoint import Checkpoint
from tektra.formats.checkpoint_quantized import joined_tensors
from tektra.formats.ggml_types import GGMLType

__all__ = ["LogicalTensor", "logical_tensors"]

_TYPES = MappingProxyType(
    {
        "F32": GGMLType.F32,
        "F16": GGMLType.F16,
        "BF16": GGMLType.BF16,
        "F64": GGMLType.F64,
        "I8": GGMLType.I8,
        "I16": GGMLType.I16,
        "I32": GGMLType.I32,
        "I64": GGMLType.I64,
        # As bytes: no weights, but buffers, which are dropped by their names.
        "BOOL": GGMLType.I8,
        "U8": GGMLType.I8,
        "U16": GGMLType.I16,
        "U32": GGMLType.I32,
        "U64": GGMLType.I64,
    }
)


@dataclass(frozen=True, slots=True)
class LogicalTensor:
    """One tensor of a model, by its name in transformers.

    Attributes:
        name: as transformers has it (``"model.norm.weight"``).
        shape: rows first, width last.
        type: element type; blocks run along the width.
        read: gives the bytes, uint8 [nbytes], read-only; without a copy where they are stored so.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    read: Callable[[], NDArray[np.uint8]]

    @property
    def nbytes(self) -> int:
        width = self.shape[-1] if self.shape else 1
        return math.prod(self.shape[:-1]) * self.type.row_bytes(width)


def logical_tensors(checkpoint: Checkpoint) -> Mapping[str, LogicalTensor]:
    """The tensors of a model, in the order of the files.

    Raises:
        FormatError: parts of a quantized matrix are missing or do not fit together.
        UnsupportedModelError: it is quantized in a way, or has an element type, that is not read.
    """
    joined, used = joined_tensors(checkpoint)
    tensors = {name: _stored(checkpoint, name) for name in checkpoint.tensors if name not in used}
    for name, shape, type_, read in joined:
        if name in tensors:
            raise FormatError(f"tensor {name!r} is there both quantized and not")
        tensors[name] = LogicalTensor(name, shape, type_, read)
    return tensors


def _stored(checkpoint: Checkpoint, name: str) -> LogicalTensor:
    tensor = checkpoint.tensors[name]
    type_ = _TYPES.get(tensor.dtype)
    if type_ is None:
        raise UnsupportedModelError(
            f"tensor {name!r} has the element type {tensor.dtype}, which is not supported here"
        )
    return LogicalTensor(name, tensor.shape, type_, lambda: checkpoint.tensor_bytes(name))
