"""Gives adapters to the native core: which instruction takes what, and as what it is kept.

Linears that share an input have the first factors of an adapter in one matrix, so that they are
multiplied together. It knows instructions and shapes, not where an adapter came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.backends.cpu_program import Instruction, OpCode
from tektra.backends.step_check import check_update
from tektra.errors import BackendError, MemoryLimitError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.low_rank import LowRankUpdate

__all__ = ["AdaptedLinears"]


class AdaptedLinears:
    """The linears of a lowered graph.

    Args:
        instructions: of the lowered graph.
        shapes: of its matrices, by name.
        quantized: the matrices that multiply int8 activations.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        shapes: Mapping[str, tuple[int, ...]],
        quantized: Collection[str],
    ) -> None:
        self._linears = {
            index: [str(name) for name in op.weights[: len(op.outputs)]]
            for index, op in enumerate(instructions)
            if op.code is OpCode.LINEAR
        }
        self._quantized = frozenset(quantized)
        self._shapes = {name: shapes[name] for names in self._linears.values() for name in names}

    def add(self, program: Any, updates: Mapping[str, LowRankUpdate]) -> int:
        """Gives an adapter to a program; `Executable.add_adapter` says what is raised."""
        for name, update in updates.items():
            check_update(name, update, self._shapes)
        adapter: int | None = None
        try:
            adapter = program.add_adapter()
            for index, names in self._linears.items():
                concerned = [(out, updates[n]) for out, n in enumerate(names) if n in updates]
                if concerned:
                    # What int8 activations round away is eight times what float16 does.
                    half = names[0] in self._quantized
                    _add_factors(program, adapter, index, concerned, half=half)
        except BaseException as error:
            if adapter is not None:
                with contextlib.suppress(Exception):
                    program.remove_adapter(adapter)
            if isinstance(error, MemoryError):
                raise MemoryLimitError(
                    "there is no memory for the adapter",
                    remedy="unload other adapters, or end other programs",
                ) from error
            if isinstance(error, ValueError | RuntimeError):
                raise BackendError(f"the native core refused the adapter: {error}") from error
            raise
        return adapter


def _add_factors(
    program: Any,
    adapter: int,
    index: int,
    concerned: list[tuple[int, LowRankUpdate]],
    *,
    half: bool,
) -> None:
    factors = []
    firsts = []
    for out, update in concerned:
        first: NDArray[Any] = update.a
        second: NDArray[Any] = update.b
        scale = update.scale
        if half:
            first, one = _scaled(first)
            second, other = _scaled(second)
            scale *= one * other
        firsts.append(first)
        factors.append((out, update.rank, scale, _bytes(second)))
    kind = GGMLType.F16 if half else GGMLType.F32
    program.add_factors(adapter, index, int(kind), _bytes(np.concatenate(firsts)), factors)


def _scaled(matrix: NDArray[np.float32]) -> tuple[NDArray[np.float16], float]:
    """The matrix as float16, and the power of two by which it is to be multiplied.

    The largest element is near 1, so that small ones are not lost.
    """
    factor = 2.0 ** float(np.clip(np.frexp(np.abs(matrix).max())[1], -120, 120))
    return (matrix / np.float32(factor)).astype(np.float16), factor


def _bytes(matrix: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
