"""Rates of the native core's matrix kernels, measured through programs of nothing but linears.

`kernels.py` shows them and `gate.py` guards them. A walk is a step through several matrices of one
type and shape, none of which is in a cache when its turn comes again where they are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import CompileOptions, Step
from tektra.backends.cpu import CpuBackend, CpuExecutable
from tektra.backends.cpu_peaks import Peaks
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import quantize, random_blocks
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph

__all__ = ["FLOAT_TYPES", "TYPES", "MatrixSet", "Shape"]

FLOAT_TYPES = (GGMLType.F16, GGMLType.BF16, GGMLType.F32)
TYPES = (
    GGMLType.Q4_0,
    GGMLType.Q4_1,
    GGMLType.Q5_0,
    GGMLType.Q5_1,
    GGMLType.Q8_0,
    GGMLType.Q2_K,
    GGMLType.Q3_K,
    GGMLType.Q4_K,
    GGMLType.Q5_K,
    GGMLType.Q6_K,
    *FLOAT_TYPES,
)

_VOCABULARY = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """A matrix of ``rows`` x ``width``: as many outputs, so wide inputs."""

    rows: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From ``"1536x576"``."""
        rows, _, width = text.partition("x")
        return cls(int(rows), int(width))

    def __str__(self) -> str:
        return f"{self.rows}x{self.width}"

    def fits(self, type_: GGMLType) -> bool:
        """Whether blocks of the type divide the width."""
        return self.width % type_.block_size == 0

    def num_bytes(self, type_: GGMLType) -> int:
        """Bytes in a file."""
        return self.rows * type_.row_bytes(self.width)


class _Repeated:
    """A weight source in which all matrices have the same bytes; packed, each has its own place."""

    def __init__(self, type_: GGMLType, shape: Shape, count: int) -> None:
        rng = np.random.default_rng(0)
        table = rng.standard_normal((_VOCABULARY, shape.width), np.float32)
        matrix: NDArray[np.generic]
        if type_ in FLOAT_TYPES:
            floats = rng.standard_normal((shape.rows, shape.width), np.float32)
            matrix = quantize(floats * np.float32(shape.width**-0.5), type_)
        else:
            matrix = random_blocks(type_, (shape.rows, shape.width), rng, shape.width**-0.5)
        self._table = table.reshape(-1).view(np.uint8)
        self._matrix = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
        self._tensors = {
            "table": TensorInfo(
                "table", (_VOCABULARY, shape.width), GGMLType.F32, 0, 0, self._table.size
            )
        }
        for i in range(count):
            name = f"m{i}.weight"
            self._tensors[name] = TensorInfo(
                name, (shape.rows, shape.width), type_, 0, 0, self._matrix.size
            )

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def tensor_bytes(self, name: str, /) -> NDArray[np.uint8]:
        return self._table if name == "table" else self._matrix


class MatrixSet:
    """Matrices of one type and shape, ready to be multiplied by rows.

    Args:
        type_: of the weights.
        shape: of each matrix.
        total_bytes: as many matrices as it takes to have so much, one at least.
        max_rows: most rows of a walk.
    """

    def __init__(
        self,
        type_: GGMLType,
        shape: Shape,
        *,
        total_bytes: int = 0,
        max_rows: int = 1,
        threads: int = 2,
        isa: str = "",
    ) -> None:
        count = max(1, -(-total_bytes // shape.num_bytes(type_)))
        source = _Repeated(type_, shape, count)
        graph = Graph({name: info.shape for name, info in source.tensors.items()})
        x = graph.embed("table")
        for i in range(count):
            graph.linear(x, f"m{i}")
        graph.output("logits", graph.select_outputs(x))
        self.type = type_
        self.shape = shape
        self.count = count
        self.file_bytes = count * shape.num_bytes(type_)
        blocks = -(-max_rows // 32)
        options = CompileOptions(threads, max_rows, 1, blocks)
        self._executable: CpuExecutable = CpuBackend(isa=isa or None).compile(
            graph, source, options
        )
        self._table = np.arange(blocks, dtype=np.int32)[None]
        self._executable.set_profiling(True)

    def walk(self, rows: int) -> float:
        """Seconds that the linears of a step of so many rows take, all matrices together."""
        return sum(self.each(rows))

    def each(self, rows: int) -> list[float]:
        """Seconds that each linear of a step of so many rows takes."""
        self._executable.set_profiling(True)  # forgets what was before
        self._executable.run(
            Step(
                token_ids=np.arange(rows, dtype=np.int32) % _VOCABULARY,
                positions=np.arange(rows, dtype=np.int32),
                row_starts=np.array([0, rows], np.int32),
                num_cached=np.zeros(1, np.int32),
                block_tables=self._table,
                output_rows=np.array([rows - 1], np.int32),
            )
        )
        return [seconds for kind, seconds, _ in self._executable.profile if kind == "linear"]

    def operations(self, rows: int) -> float:
        """Multiply-adds of a walk."""
        return float(self.count * self.shape.rows * self.shape.width * rows)

    def bounds(self, peaks: Peaks, rows: int) -> tuple[float, float]:
        """Seconds below which no walk can be on a machine with these peaks: for reading, computing.

        Counted are the weights as they are in the file, whatever became of them when they were
        packed, and each multiply-add once.
        """
        is_float = self.type in FLOAT_TYPES
        rate = peaks.float_per_second if is_float else peaks.int8_per_second
        return self.file_bytes / peaks.read_bytes_per_second, self.operations(rows) / rate

    def close(self) -> None:
        self._executable.close()
