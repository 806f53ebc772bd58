"""A model seen as if it were stored in other types: encoded when its bytes are asked for.

The same protocol as `GGUFFile`, so that what loads or writes a model need not know.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tektra.errors import UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import DECODABLE_TYPES
from tektra.formats.tensor_info import TensorInfo
from tektra.quantize.encode import Encoder
from tektra.quantize.mixes import FLOATS

__all__ = ["QuantizedView", "Source", "check_source"]


class Source(Protocol):
    """A model that is open for reading, of any format."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    @property
    def path(self) -> Path: ...
    @property
    def paths(self) -> tuple[Path, ...]: ...
    @property
    def statuses(self) -> tuple[os.stat_result, ...]: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def variant(self) -> str: ...
    def tensor_bytes(self, name: str, /) -> NDArray[np.uint8]: ...
    def check_unchanged(self) -> None: ...


class QuantizedView:
    """A model in other types.

    Args:
        source: the model; whoever opened it closes it, after this is used.
        types: the type of each tensor.
        encoder: what encodes.
        importance: what the errors of columns weigh, by tensor; see `Encoder.encode`.
        recipe: how `types` came about, for the names of copies.

    Attributes:
        tensors: by name, with their new types and sizes; offsets are those of the source.
    """

    def __init__(
        self,
        source: Source,
        types: Mapping[str, GGMLType],
        encoder: Encoder,
        *,
        importance: Mapping[str, NDArray[np.float32]] | None = None,
        recipe: str = "",
    ) -> None:
        self._source = source
        self._encoder = encoder
        self._importance = importance or {}
        self._recipe = recipe
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: _as_type(info, types[name]) for name, info in source.tensors.items()}
        )

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._source.metadata

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def paths(self) -> tuple[Path, ...]:
        return self._source.paths

    @property
    def statuses(self) -> tuple[os.stat_result, ...]:
        return self._source.statuses

    @property
    def file_bytes(self) -> int:
        return self._source.file_bytes

    @property
    def variant(self) -> str:
        """What besides the files makes the weights what they are."""
        return f"{self._source.variant} quantized {_ENCODING} {self._recipe}".strip()

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor in its new type: uint8 [nbytes]. Made anew each time.

        Raises:
            FormatError: a weight cannot be kept, or the file was cut short.
        """
        info, stored = self.tensors[name], self._source.tensors[name]
        return self._encoder.encode(
            self._source.tensor_bytes(name),
            stored.type,
            stored.shape,
            info.type,
            importance=self._importance.get(name),
            name=name,
        )

    def check_unchanged(self) -> None:
        """Raises `FormatError` where a file was written to since it was opened."""
        self._source.check_unchanged()


# Goes up when the same weights are encoded otherwise than before.
_ENCODING = 1


def check_source(
    source: Source, types: Mapping[str, GGMLType], *, allow_requantize: bool, option: str
) -> None:
    """Refuses what would be quantized a second time, and what cannot be decoded.

    Args:
        source: the model.
        types: the type that each tensor is to have.
        allow_requantize: whether a second time is wanted.
        option: what a person does to want it, for the error.

    Raises:
        UnsupportedModelError: names the tensors and their types.
    """
    changed = [info for name, info in source.tensors.items() if types[name] is not info.type]
    for info in changed:
        if info.type not in DECODABLE_TYPES:
            raise UnsupportedModelError(
                f"tensor {info.name!r} has the type {info.type.name}, which cannot be decoded",
                remedy="begin with a file in float16 or float32",
            )
    quantized = [info for info in changed if info.type not in FLOATS]
    if quantized and not allow_requantize:
        kinds = sorted({info.type.name for info in quantized})
        raise UnsupportedModelError(
            f"{source.path.name} is quantized already: {len(quantized)} tensors are "
            f"{', '.join(kinds)}, such as {quantized[0].name!r}",
            remedy=f"begin with the float weights, or {option} to lose precision twice",
        )


def _as_type(info: TensorInfo, type_: GGMLType) -> TensorInfo:
    if info.type is type_:
        return info
    width = info.shape[-1] if info.shape else 1
    num_bytes = math.prod(info.shape[:-1]) * type_.row_bytes(width)
    return TensorInfo(info.name, info.shape, type_, info.file, info.offset, num_bytes)
