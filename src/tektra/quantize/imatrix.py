"""Importance matrices: how much each input of each matrix was used, in llama.cpp's two formats.

The GGUF one, and the binary one (.dat) that came before it. How they are measured, `collect` knows.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.tensor_info import TensorInfo

__all__ = ["Activations", "ImportanceMatrix"]

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_MAX_ENTRIES: Final = 1 << 20
_MAX_VALUES: Final = 1 << 28
_LEAST: Final = 1e-6
_MAGIC: Final = b"GGUF"


@dataclass(frozen=True, slots=True)
class Activations:
    """What went into one matrix.

    Attributes:
        sums: float32 [experts, width], sums of squares of each column; experts is 1 for a matrix
            of two dimensions.
        counts: float32 [experts], rows that went in.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceMatrix:
    """What went into the matrices of a model.

    Attributes:
        entries: by the names of tensors.
        datasets: names of the texts.
        num_chunks: windows of text that were read.
        chunk_size: tokens in one of them.
    """

    entries: Mapping[str, Activations]
    datasets: tuple[str, ...]
    num_chunks: int
    chunk_size: int

    # Files

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the GGUF form.

        Raises:
            FormatError: there is nothing in it, or a name is too long.
            OSError: the file cannot be written; nothing is left behind.
        """
        if not self.entries:
            raise FormatError("an importance matrix without entries cannot be written")
        tensors = []
        for name, entry in sorted(self.entries.items()):
            for suffix, values in ((_SUMS, entry.sums), (_COUNTS, entry.counts[:, None])):
                data = np.ascontiguousarray(values, np.float32)
                tensors.append((name + suffix, data.shape, GGMLType.F32, data))
        metadata = {
            "general.type": "imatrix",
            "imatrix.datasets": Typed(list(self.datasets), "str"),
            "imatrix.chunk_count": Typed(self.num_chunks, "u32"),
            "imatrix.chunk_size": Typed(self.chunk_size, "u32"),
        }
        write_gguf(path, metadata, tensors)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ImportanceMatrix:
        """Reads either form.

        Raises:
            FormatError: the file is not there, malformed, or neither form.
        """
        try:
            with Path(path).open("rb") as file:
                is_gguf = file.read(4) == _MAGIC
        except OSError as error:
            raise FormatError(f"{os.fspath(path)}: {error.strerror or error}") from error
        return _read_gguf(Path(path)) if is_gguf else _read_legacy(Path(path))

    # For encoders

    def weights(self, tensors: Mapping[str, TensorInfo]) -> dict[str, NDArray[np.float32]]:
        """What the errors of columns weigh, for the tensors of a model that have an entry.

        Returns:
            float32 [width] or [experts, width] by name: means of squares over their own mean, at
            least a millionth. An expert that saw nothing has ones.

        Raises:
            FormatError: an entry is of another shape than its tensor: it is of another model.
        """
        found: dict[str, NDArray[np.float32]] = {}
        for name, info in tensors.items():
            entry = self.entries.get(name)
            if entry is None:
                continue
            experts = info.shape[0] if len(info.shape) == 3 else 1
            width = info.shape[-1]
            if entry.sums.size != experts * width:
                raise FormatError(
                    f"the importance matrix has {entry.sums.size} values for {name!r}, which has "
                    f"{experts * width} columns",
                    remedy="use the importance matrix of this model",
                )
            sums = entry.sums.reshape(experts, width).astype(np.float64)
            mean = sums.mean(axis=1, keepdims=True)
            seen = mean > 0
            with np.errstate(divide="ignore", invalid="ignore"):
                weights = np.where(seen, np.maximum(sums / mean, _LEAST), 1.0)
            found[name] = weights.astype(np.float32)
            if experts == 1:
                found[name] = found[name].reshape(width)
        return found


def _read_gguf(path: Path) -> ImportanceMatrix:
    with GGUFFile.open(path) as file:
        kind = file.metadata.get("general.type")
        if kind != "imatrix":
            raise FormatError(
                f"{path.name} is not an importance matrix: general.type is {kind!r}",
                remedy="tektra imatrix makes one",
            )
        entries: dict[str, Activations] = {}
        for name in file.tensors:
            if not name.endswith(_SUMS):
                continue
            base = name.removesuffix(_SUMS)
            if base + _COUNTS not in file.tensors:
                raise FormatError(f"{path.name} has {name!r} but not {base + _COUNTS!r}")
            sums = file.dequantize(name)
            sums = sums.reshape(-1, sums.shape[-1])
            counts = file.dequantize(base + _COUNTS).reshape(-1)
            if len(counts) != len(sums):
                raise FormatError(
                    f"{path.name}: {base!r} has {len(counts)} counts for {len(sums)} rows"
                )
            entries[base] = _checked(path, base, sums, counts)
        datasets: Any = file.metadata.get("imatrix.datasets", [])
        if isinstance(datasets, str) or not hasattr(datasets, "__iter__"):
            raise FormatError(f"{path.name}: imatrix.datasets is not a list")
        return ImportanceMatrix(
            entries=entries,
            datasets=tuple(str(text) for text in datasets),
            num_chunks=_number(path, file.metadata, "imatrix.chunk_count"),
            chunk_size=_number(path, file.metadata, "imatrix.chunk_size"),
        )


def _number(path: Path, metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError(f"{path.name}: {key} is not a whole number: {str(value)[:40]}")
    return value


def _read_legacy(path: Path) -> ImportanceMatrix:
    """i32 entries, then of each: i32 length of the name, the name, i32 calls, i32 values, and the
    values, float32 means of squares times the calls; at the end may come i32 calls in all and the
    data set's name."""
    entries: dict[str, Activations] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        count = _i32(file, path, 1, _MAX_ENTRIES)
        for _ in range(count):
            name_bytes = _exactly(file, path, _i32(file, path, 1, 1 << 12))
            try:
                name = name_bytes.decode("utf-8")
            except UnicodeDecodeError:
                raise FormatError(f"{path.name} is not an importance matrix") from None
            calls = _i32(file, path, 0, 2**31 - 1)
            num_values = _i32(file, path, 1, min(_MAX_VALUES, size // 4))
            values = np.frombuffer(_exactly(file, path, 4 * num_values), "<f4")
            counts = np.array([max(calls, 1)], np.float32)
            entries[name] = _checked(path, name, values.reshape(1, -1).copy(), counts)
        rest = file.read(8)
        chunks, datasets = 0, tuple[str, ...]()
        if len(rest) == 8:
            chunks, length = struct.unpack("<ii", rest)
            if not 0 <= length <= 1 << 16 or chunks < 0:
                raise FormatError(f"{path.name} is malformed behind its last entry")
            datasets = (_exactly(file, path, length).decode("utf-8", "replace"),)
    return ImportanceMatrix(entries=entries, datasets=datasets, num_chunks=chunks, chunk_size=0)


def _checked(
    path: Path, name: str, sums: NDArray[np.float32], counts: NDArray[np.float32]
) -> Activations:
    if not (np.isfinite(sums).all() and (sums >= 0).all() and np.isfinite(counts).all()):
        raise FormatError(
            f"{path.name} has values for {name!r} that are not sums of squares",
            remedy="the model made infinities on this text, or the file is damaged",
        )
    return Activations(sums, counts)


def _i32(file: BinaryIO, path: Path, low: int, high: int) -> int:
    value = int(struct.unpack("<i", _exactly(file, path, 4))[0])
    if not low <= value <= high:
        raise FormatError(
            f"{path.name} is not an importance matrix, or is damaged: {value} where {low} to "
            f"{high} is possible"
        )
    return value


def _exactly(file: BinaryIO, path: Path, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise FormatError(f"{path.name} ends too early")
    return data
