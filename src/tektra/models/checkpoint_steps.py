"""What the steps of a checkpoint format do to the bytes of a tensor, and to its shape.

Rows are moved as they are stored, whatever their element type; only what changes numbers decodes
them. It does not know which tensors there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import dequantize
from tektra.models.checkpoint_format import AddOne, FromRow, Heads, Part, Reshape, Step, Transpose

__all__ = ["apply_steps", "shape_after"]

_Shape = tuple[int, ...]
_Bytes = NDArray[np.uint8]


def shape_after(
    steps: tuple[Step, ...],
    shape: _Shape,
    type_: GGMLType,
    *,
    name: str,
    heads: Callable[[str], int],
) -> tuple[_Shape, GGMLType]:
    """Shape and element type that a tensor has after some steps.

    Args:
        steps: in order.
        shape: before them.
        type_: before them.
        name: of the tensor, for errors.
        heads: gives the number that the metadata has under a key.

    Raises:
        FormatError: the tensor is not of a shape that a step can take.
    """
    for step in steps:
        if isinstance(step, AddOne):
            type_ = GGMLType.F32
        elif isinstance(step, Heads):
            rows = shape[0] if shape else 0
            if len(shape) not in (1, 2) or rows % (2 * heads(step.count)):
                raise FormatError(
                    f"tensor {name!r} has the shape {shape}, whose rows are not an even number for "
                    f"each of {heads(step.count)} heads"
                )
        elif isinstance(step, Transpose):
            if len(shape) < 2 or type_.block_size != 1:
                raise FormatError(
                    f"tensor {name!r} of {type_.name} with shape {shape} cannot be transposed"
                )
            shape = (*shape[:-2], shape[-1], shape[-2])
        elif isinstance(step, FromRow):
            if len(shape) != 2 or shape[0] <= step.first:
                raise FormatError(f"tensor {name!r} has the shape {shape}: too few rows")
            shape = (shape[0] - step.first, shape[1])
        elif isinstance(step, Part):
            axis = max(len(shape) - 2, 0)
            if not shape or shape[axis] % step.count:
                raise FormatError(
                    f"tensor {name!r} has the shape {shape}, whose rows are not {step.count} equal "
                    "parts"
                )
            shape = (*shape[:axis], shape[axis] // step.count, *shape[axis + 1 :])
        else:
            shape = _reshaped(step, shape, type_, name)
    return shape, type_


def apply_steps(
    steps: tuple[Step, ...],
    data: _Bytes,
    shape: _Shape,
    type_: GGMLType,
    *,
    name: str,
    heads: Callable[[str], int],
) -> tuple[_Bytes, _Shape, GGMLType]:
    """The bytes of a tensor after some steps, with its shape and type; see `shape_after`."""
    for step in steps:
        after, type_after = shape_after((step,), shape, type_, name=name, heads=heads)
        if isinstance(step, AddOne):
            numbers = dequantize(data, type_, shape, name=name) + np.float32(1.0)
            data = numbers.reshape(-1).view(np.uint8)
        elif isinstance(step, Heads):
            halves = _rows(data, shape, type_).reshape(
                heads(step.count), 2, -1, _width(shape, type_)
            )
            data = halves.swapaxes(1, 2).reshape(-1)
        elif isinstance(step, Transpose):
            items = data.reshape(-1, *shape[-2:], type_.block_bytes)
            data = items.swapaxes(1, 2).reshape(-1)
        elif isinstance(step, FromRow):
            data = data[step.first * _width(shape, type_) :]
        elif isinstance(step, Part):
            data = _part(step, data, shape, type_)
        shape, type_ = after, type_after
    return data, shape, type_


def _part(step: Part, data: _Bytes, shape: _Shape, type_: GGMLType) -> _Bytes:
    rows, width = (shape[-2] if len(shape) > 1 else shape[0]), _width(shape, type_)
    if step.interleaved:
        parts = data.reshape(-1, rows // step.count, step.count, width)
        return parts[:, :, step.index].reshape(-1)
    ranges = data.reshape(-1, step.count, rows // step.count * width)
    return ranges[:, step.index].reshape(-1)


def _width(shape: _Shape, type_: GGMLType) -> int:
    """Bytes of a row; of a vector, of one of its elements."""
    return type_.row_bytes(shape[-1]) if len(shape) > 1 else type_.row_bytes(1)


def _rows(data: _Bytes, shape: _Shape, type_: GGMLType) -> _Bytes:
    return data.reshape(-1, _width(shape, type_))


def _reshaped(step: Reshape, shape: _Shape, type_: GGMLType, name: str) -> _Shape:
    total = math.prod(shape)
    known = math.prod(size for size in step.shape if size != -1)
    new = tuple(total // known if size == -1 and known else size for size in step.shape)
    if math.prod(new) != total or (type_.block_size != 1 and new[-1:] != shape[-1:]):
        raise FormatError(f"tensor {name!r} has the shape {shape}, which cannot be {step.shape}")
    return new
