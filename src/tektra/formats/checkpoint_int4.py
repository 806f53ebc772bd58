"""Weights of GPTQ and AWQ checkpoints: a scale and a whole zero point for a group of inputs.

A weight is ``scale * (q - zero)``. With scales that are halves that is exactly what blocks of GGUF
hold: Q4_0 where every zero is 8, Q5_0 for any zero of 4 bits (q - zero has 5), Q8_0 for 8 bits
whose zeros are 128. What does not fit there becomes float32, without an error but large: groups in
no order (``desc_act``), groups that 32 does not divide, other scales. It knows no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.ggml_types import GGMLType

__all__ = ["GroupedWeights", "unpack_awq", "unpack_gptq"]

_BLOCK = 32
_ROWS = 256
# Which column of eight each nibble of a word belongs to, from the lowest (AutoAWQ's GEMM layout).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Layout = Literal["gptq", "awq"]


@dataclass(frozen=True, slots=True)
class GroupedWeights:
    """A matrix of quantized weights.

    Attributes:
        name: for errors.
        bits: 4 or 8.
        layout: how integers are packed.
        words: int32, the packed integers: [inputs * bits / 32, outputs] of GPTQ, [inputs,
            outputs * bits / 32] of AWQ.
        scales: float32 [groups, outputs].
        zeros: int16 [groups, outputs].
        groups: int32 [inputs], the group of each input.
    """

    name: str
    bits: int
    layout: Layout
    words: NDArray[np.int32]
    scales: NDArray[np.float32]
    zeros: NDArray[np.int16]
    groups: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (outputs) and width (inputs)."""
        return self.scales.shape[1], len(self.groups)

    @property
    def type(self) -> GGMLType:
        """The element type that holds these weights without an error."""
        width = len(self.groups)
        if width % _BLOCK or not _halves(self.scales):
            return GGMLType.F32
        by_block = self.groups.reshape(-1, _BLOCK)
        if (by_block != by_block[:, :1]).any():
            return GGMLType.F32
        if self.bits == 8:
            return GGMLType.Q8_0 if (self.zeros == 128).all() else GGMLType.F32
        return GGMLType.Q4_0 if (self.zeros == 8).all() else GGMLType.Q5_0

    def encoded(self) -> NDArray[np.uint8]:
        """The weights as the bytes of `type`: uint8 [nbytes]."""
        type_ = self.type
        outputs, inputs = self.shape
        out = np.empty((outputs, type_.row_bytes(inputs)), np.uint8)
        for begin in range(0, outputs, _ROWS):
            end = min(begin + _ROWS, outputs)
            # [rows, inputs]: the integers less their zeros.
            values = self._integers(begin, end).T.astype(np.int16)
            values -= self.zeros[self.groups, begin:end].T
            if type_ is GGMLType.F32:
                floats = values * self.scales[self.groups, begin:end].T
                out[begin:end] = np.ascontiguousarray(floats, np.float32).view(np.uint8)
            else:
                scales = self.scales[self.groups[::_BLOCK], begin:end].T.astype(np.float16)
                blocks = values.reshape(end - begin, -1, _BLOCK)
                out[begin:end] = _blocks(blocks, scales, type_).reshape(end - begin, -1)
        return out.reshape(-1)

    def _integers(self, begin: int, end: int) -> NDArray[np.uint8]:
        """The integers of some outputs: uint8 [inputs, outputs]; both are multiples of eight."""
        per_word = 32 // self.bits
        if self.layout == "gptq":
            words = self.words[:, begin:end]
            parts = [_field(words, self.bits, at) for at in range(per_word)]
            return np.stack(parts, axis=1).reshape(-1, end - begin)
        return _unpack_columns(self.words[:, begin // 8 : end // 8], 4, _AWQ_ORDER)


def unpack_gptq(
    name: str,
    bits: int,
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32],
    scales: NDArray[np.float32],
    g_idx: NDArray[np.int32] | None,
    *,
    group_size: int,
    first_version: bool,
) -> GroupedWeights:
    """The matrix of a GPTQ checkpoint.

    Args:
        name: of the module, for errors.
        bits: 4 or 8.
        qweight: int32 [inputs * bits / 32, outputs]; the lowest bits are the first input's.
        qzeros: int32 [groups, outputs * bits / 32]; the lowest bits are the first output's.
        scales: [groups, outputs].
        g_idx: the group of each input; None where they are in order.
        group_size: inputs of a group; -1 for all.
        first_version: whether zeros are stored less one, modulo 2^bits, as in the format that has
            no version; not so in gptq_v2.

    Raises:
        FormatError: shapes do not fit, or a group is none.

    Source: the layout of AutoGPTQ's and GPTQModel's checkpoints.
    """
    inputs, outputs = qweight.shape[0] * 32 // bits, qweight.shape[1]
    if outputs % (32 // bits):
        raise FormatError(f"{name!r} has {outputs} outputs, which do not fill words of {bits} bits")
    groups = _groups(name, inputs, group_size, len(scales), g_idx)
    _check(name, "qzeros", qzeros.shape, (len(scales), outputs * bits // 32))
    _check(name, "scales", scales.shape, (len(scales), outputs))
    zeros = _unpack_columns(qzeros, bits, tuple(range(32 // bits))).astype(np.int16)
    if first_version:
        zeros = (zeros + 1) % (1 << bits)
    return GroupedWeights(name, bits, "gptq", qweight, scales, zeros, groups)


def unpack_awq(
    name: str,
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32],
    scales: NDArray[np.float32],
    *,
    group_size: int,
) -> GroupedWeights:
    """The matrix of an AWQ checkpoint of the version GEMM, 4 bits.

    Args:
        name: of the module, for errors.
        qweight: int32 [inputs, outputs / 8], eight neighbouring outputs in a word.
        qzeros: int32 [groups, outputs / 8], likewise.
        scales: [groups, outputs].
        group_size: inputs of a group; -1 for all.

    Raises:
        FormatError: shapes do not fit.

    Source: the layout of AutoAWQ's checkpoints.
    """
    inputs, outputs = qweight.shape[0], qweight.shape[1] * 8
    groups = _groups(name, inputs, group_size, len(scales), None)
    _check(name, "qzeros", qzeros.shape, (len(scales), outputs // 8))
    _check(name, "scales", scales.shape, (len(scales), outputs))
    zeros = _unpack_columns(qzeros, 4, _AWQ_ORDER).astype(np.int16)
    return GroupedWeights(name, 4, "awq", qweight, scales, zeros, groups)


def _field(words: NDArray[np.int32], bits: int, at: int) -> NDArray[np.uint8]:
    return ((words.view(np.uint32) >> np.uint32(bits * at)) & np.uint32((1 << bits) - 1)).astype(
        np.uint8
    )


def _unpack_columns(
    words: NDArray[np.int32], bits: int, order: tuple[int, ...]
) -> NDArray[np.uint8]:
    """[rows, words] -> [rows, words * fields]; ``order[k]`` is the column of field k."""
    words = np.ascontiguousarray(words)
    out = np.empty((*words.shape, len(order)), np.uint8)
    for at, column in enumerate(order):
        out[:, :, column] = _field(words, bits, at)
    return out.reshape(len(words), -1)


def _groups(
    name: str, inputs: int, group_size: int, count: int, g_idx: NDArray[np.int32] | None
) -> NDArray[np.int32]:
    size = inputs if group_size == -1 else group_size
    if size <= 0 or -(-inputs // size) != count:
        raise FormatError(
            f"{name!r} has {inputs} inputs in groups of {group_size}, but scales of {count} groups"
        )
    if g_idx is None:
        return (np.arange(inputs) // size).astype(np.int32)
    _check(name, "g_idx", g_idx.shape, (inputs,))
    if inputs and (g_idx.min() < 0 or g_idx.max() >= count):
        raise FormatError(f"'g_idx' of {name!r} names a group that is not one of {count}")
    return g_idx


def _check(name: str, part: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise FormatError(f"{part!r} of {name!r} has the shape {found}, not {wanted}")


def _halves(scales: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16).astype(np.float32) == scales).all())


def _blocks(
    values: NDArray[np.int16], scales: NDArray[np.float16], type_: GGMLType
) -> NDArray[np.uint8]:
    """Blocks of GGUF: from whole numbers [rows, blocks, 32] and scales [rows, blocks]."""
    out = np.empty((*scales.shape, type_.block_bytes), np.uint8)
    out[..., :2] = np.ascontiguousarray(scales)[..., None].view(np.uint8)
    if type_ is GGMLType.Q8_0:
        out[..., 2:] = values.astype(np.int8).view(np.uint8)
        return out
    offset = 8 if type_ is GGMLType.Q4_0 else 16
    codes = (values + offset).astype(np.uint8)
    low, high = codes[..., :16], codes[..., 16:]
    out[..., -16:] = (low & 15) | ((high & 15) << 4)
    if type_ is GGMLType.Q5_0:
        out[..., 2:6] = np.packbits(codes >> 4, axis=-1, bitorder="little")
    return out
