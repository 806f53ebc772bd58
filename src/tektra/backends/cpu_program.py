"""What a lowered graph is made of, and where its intermediates lie in the arena.

Plain data, as the native core takes it; it knows neither graphs nor weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from tektra.backends.base import CompileOptions
from tektra.graph import RopeSpec

__all__ = [
    "QUANTIZING",
    "Buffer",
    "Instruction",
    "OpCode",
    "moe_row_bytes",
    "packed_shape",
    "place",
    "quantized_bytes",
    "round_up",
    "row_scratch_bytes",
]

_ALIGNMENT = 64


class OpCode(IntEnum):
    """As ``tektra::OpCode`` in native/include/tektra/program.h."""

    EMBED = 0
    QUANTIZE = 1
    LINEAR = 2
    RMS_NORM = 3
    LAYER_NORM = 4
    ROPE_TABLE = 5
    ROPE = 6
    ATTENTION = 7
    ACTIVATE = 8
    GATED = 9
    ADD = 10
    MUL = 11
    SCALE = 12
    SOFTCAP = 13
    SELECT = 14
    RMS_NORM_QUANTIZE = 15
    GATED_QUANTIZE = 16
    COLUMNS = 17
    MOE = 18


QUANTIZING = frozenset({OpCode.QUANTIZE, OpCode.RMS_NORM_QUANTIZE, OpCode.GATED_QUANTIZE})
"""Instructions that make quantized rows; their first number is how many terms a row has."""


@dataclass(slots=True)
class Buffer:
    """A place in the arena: ``stride`` bytes a row, from ``offset`` on."""

    width: int
    stride: int
    outputs: bool
    offset: int = -1


@dataclass(slots=True)
class Instruction:
    """One op of the core. Buffers are numbers, weights are names or rope specs (None: absent)."""

    code: OpCode
    inputs: list[int]
    outputs: list[int]
    weights: list[str | RopeSpec | None] = field(default_factory=list)
    ints: list[int] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    # index of the input whose place the output may take, since it is read first
    in_place: int | None = None


def round_up(num_bytes: int) -> int:
    """To the alignment of a row."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def quantized_bytes(width: int) -> int:
    """As ``tektra::quantized_row_bytes``: 64 bytes for 32 elements, then the row's scale."""
    return width // 32 * 64 + 64


def packed_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows and width of a matrix, and how many matrices there are: those of experts are stacked.

    A vector is a matrix of one row.
    """
    return (1, shape[0], 1) if len(shape) == 1 else (shape[-2], shape[-1], math.prod(shape[:-2]))


def moe_row_bytes(
    inner: int, out: int, top_k: int, terms: int | None, inputs: Collection[int]
) -> int:
    """What a row needs beside the arena's other buffers; as ``tektra::MoeNumbers::row_bytes``.

    Args:
        inner: width between the matrices of an expert.
        out: width of its answer.
        top_k: experts of a row.
        terms: of the quantized rows that go into the last matrix; None for floats.
        inputs: bytes of a row of each buffer that the first matrices read.
    """
    floats = round_up(4 * inner)
    hidden = floats if terms is None else terms * quantized_bytes(inner)
    slot = hidden + max(2 * floats + sum(inputs), round_up(4 * out))
    return round_up(12 * top_k) + top_k * slot


def row_scratch_bytes(
    instructions: list[Instruction], buffers: list[Buffer], num_threads: int
) -> int:
    """What the core keeps beside the arena to quantize rows: two rows of floats a thread."""
    codes = {*QUANTIZING, OpCode.MOE}
    widths = [buffers[op.outputs[-1]].width for op in instructions if op.code in codes]
    return num_threads * 2 * round_up(4 * max(widths, default=0))


def place(
    instructions: list[Instruction],
    buffers: list[Buffer],
    kept: set[int],
    options: CompileOptions,
) -> int:
    """Gives every buffer its offset and returns the size of the arena.

    A buffer lives from the instruction that writes it to the last one that reads it (``kept`` ones
    to the end); it gets the lowest gap among those that live at the same time, or the very place
    of an input that ends there where the instruction may work in place.
    """
    last_use: dict[int, int] = {}
    for at, op in enumerate(instructions):
        last_use.update(dict.fromkeys((*op.inputs, *op.outputs), at))
    last_use.update(dict.fromkeys(kept, len(instructions)))

    def size(buffer: Buffer) -> int:
        return buffer.stride * (options.max_outputs if buffer.outputs else options.max_rows)

    live: list[int] = []
    arena = 0
    for at, op in enumerate(instructions):
        for number in op.outputs:
            buffer = buffers[number]
            if op.in_place is not None:
                source = op.inputs[op.in_place]
                other = buffers[source]
                if (
                    last_use[source] == at
                    and op.inputs.count(source) == 1
                    and (other.stride, other.outputs) == (buffer.stride, buffer.outputs)
                ):
                    buffer.offset = other.offset
                    live[live.index(source)] = number
                    continue
            offset = 0
            for taken in sorted((buffers[i] for i in live), key=lambda b: b.offset):
                if offset + size(buffer) <= taken.offset:
                    break
                offset = max(offset, taken.offset + size(taken))
            buffer.offset = offset
            live.append(number)
            arena = max(arena, offset + size(buffer))
        live = [i for i in live if last_use[i] > at]
    return arena
