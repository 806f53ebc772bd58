"""A model file that is not a file: tensors in memory, as a backend's `WeightSource`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import dequantize, quantize, random_blocks
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph

__all__ = ["MemoryWeights"]


class MemoryWeights:
    """Tensors by name, each of a type of its own."""

    def __init__(self) -> None:
        self._tensors: dict[str, TensorInfo] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float32]]) -> MemoryWeights:
        """Float tensors as they are."""
        weights = cls()
        for name, array in arrays.items():
            weights.add(name, array)
        return weights

    def add(
        self, name: str, array: NDArray[np.float32], type: GGMLType = GGMLType.F32
    ) -> MemoryWeights:
        """A tensor of given weights."""
        data = quantize(np.ascontiguousarray(array), type) if type is not GGMLType.F32 else array
        return self._put(name, array.shape, type, np.ascontiguousarray(data))

    def add_random(
        self, name: str, shape: tuple[int, ...], type: GGMLType, rng: np.random.Generator
    ) -> MemoryWeights:
        """A tensor of random weights with a standard deviation of 1 / sqrt(width)."""
        data = random_blocks(type, shape, rng, float(shape[-1]) ** -0.5)
        return self._put(name, shape, type, data)

    def _put(
        self, name: str, shape: tuple[int, ...], type: GGMLType, data: NDArray[np.uint8]
    ) -> MemoryWeights:
        raw = data.reshape(-1).view(np.uint8)
        raw.flags.writeable = False
        self._bytes[name] = raw
        self._tensors[name] = TensorInfo(
            name=name, shape=shape, type=type, file=0, offset=0, nbytes=raw.size
        )
        return self

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def tensor_bytes(self, name: str, /) -> NDArray[np.uint8]:
        return self._bytes[name]

    def floats(self, name: str) -> NDArray[np.float32]:
        """The weights as numbers."""
        info = self._tensors[name]
        return dequantize(self._bytes[name], info.type, info.shape, name=name)

    def graph(self) -> Graph:
        """An empty graph over these tensors."""
        return Graph({name: info.shape for name, info in self._tensors.items()})
