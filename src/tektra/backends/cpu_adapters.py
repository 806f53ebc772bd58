"""Gives adapters to the native core: which instruction takes what, and as what it is kept.

Linears that share an input have the first factors of an adapter in one matrix, so that they are
multiplied together. It knows instructions and shapes, not where an adapter came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
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
    """

    def __init__(
        self, instructions: Sequence[Instruction], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._linears = {
            index: [str(name) for name in op.weights[: len(op.outputs)]]
            for index, op in enumerate(instructions)
            if op.code is OpCode.LINEAR
        }
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
                    _add_factors(program, adapter, index, concerned)
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
    program: Any, adapter: int, index: int, concerned: list[tuple[int, LowRankUpdate]]
) -> None:
    factors = [(out, len(update.a), update.scale, _bytes(update.b)) for out, update in concerned]
    stacked = np.concatenate([update.a for _, update in concerned])
    program.add_factors(adapter, index, int(GGMLType.F32), _bytes(stacked), factors)


def _bytes(matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(matrix, np.float32).reshape(-1).view(np.uint8)
