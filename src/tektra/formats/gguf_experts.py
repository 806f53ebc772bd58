"""Experts as some GGUF files have them, presented as all others have them: stacked by matrix.

Files of early 2024 have a tensor for each expert; some of today have gate and up in one. It knows
names and shapes, and where bytes lie, but reads none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tektra.errors import FormatError
from tektra.formats.tensor_info import TensorInfo

__all__ = ["Piece", "present_experts"]

_ONE_EXPERT = re.compile(r"(blk\.[0-9]{1,9})\.(ffn_gate|ffn_up|ffn_down)\.([0-9]{1,5})\.weight")
_GATE_AND_UP = re.compile(r"(blk\.[0-9]{1,9})\.ffn_gate_up_exps\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the bytes of a presented tensor.

    Attributes:
        info: the tensor in the file.
        begin: its first byte that belongs to the piece.
        nbytes: how many do.
    """

    info: TensorInfo
    begin: int
    nbytes: int


def present_experts(
    tensors: Mapping[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], dict[str, list[Piece]]]:
    """The tensors with experts stacked, and the pieces of those that are not in the file as such.

    Raises:
        FormatError: experts are missing or differ, or a tensor is there in two forms.
    """
    presented: dict[str, TensorInfo] = {}
    pieces: dict[str, list[Piece]] = {}
    for name, info in tensors.items():
        one, both = _ONE_EXPERT.fullmatch(name), _GATE_AND_UP.fullmatch(name)
        if one is not None:
            stacked = f"{one[1]}.{one[2]}_exps.weight"
            parts = _experts(tensors, f"{one[1]}.{one[2]}") if stacked not in pieces else None
            if parts is not None:
                shape = (len(parts), *info.shape)
                _put(presented, pieces, tensors, stacked, shape, parts)
        elif both is not None:
            for half, part in enumerate(("ffn_gate_exps", "ffn_up_exps")):
                shape, parts = _half(info, half)
                _put(presented, pieces, tensors, f"{both[1]}.{part}.{both[2]}", shape, parts)
        else:
            presented[name] = info
    return presented, pieces


def _experts(tensors: Mapping[str, TensorInfo], stem: str) -> list[Piece]:
    """The matrices of all experts, in order."""
    prefix = f"{stem}."
    found = {
        int(match[3]): info
        for name, info in tensors.items()
        if name.startswith(prefix) and (match := _ONE_EXPERT.fullmatch(name))
    }
    count = len(found)
    missing = next((e for e in range(count) if e not in found), None)
    if missing is not None:
        raise FormatError(
            f"the file has {count} tensors {stem}.*.weight, but not that of expert {missing}",
            remedy="the file is damaged or incomplete: fetch it again",
        )
    first = found[0]
    for info in found.values():
        if (info.shape, info.type) != (first.shape, first.type):
            raise FormatError(
                f"tensor {info.name!r} is {info.type.name} of shape {info.shape}, and "
                f"{first.name!r} is {first.type.name} of shape {first.shape}"
            )
    return [Piece(found[e], 0, found[e].nbytes) for e in range(count)]


def _half(info: TensorInfo, half: int) -> tuple[tuple[int, ...], list[Piece]]:
    """One half of the rows of each expert: gate comes first."""
    axis = 1
    if len(info.shape) <= axis or info.shape[axis] % 2 or not info.shape[0]:
        raise FormatError(f"tensor {info.name!r} has shape {info.shape}, two halves are needed")
    experts = info.shape[0]
    size = info.nbytes // experts // 2
    shape = (experts, info.shape[axis] // 2, *info.shape[axis + 1 :])
    return shape, [Piece(info, (2 * e + half) * size, size) for e in range(experts)]


def _put(
    presented: dict[str, TensorInfo],
    pieces: dict[str, list[Piece]],
    tensors: Mapping[str, TensorInfo],
    name: str,
    shape: tuple[int, ...],
    parts: list[Piece],
) -> None:
    if name in tensors or name in presented:
        raise FormatError(f"the file has {name!r} in two forms")
    first = parts[0]
    offset = first.info.offset + first.begin
    nbytes = sum(part.nbytes for part in parts)
    presented[name] = TensorInfo(name, shape, first.info.type, first.info.file, offset, nbytes)
    pieces[name] = parts
