"""Packed copies: a model's matrices as a backend's kernels lay them out, in a safetensors file.

The header is a function of what the reader expects, so a file is right when its first bytes are
those and its length is that: nothing of an untrusted header is ever interpreted. This file knows
neither layouts nor where copies are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError
from tektra.formats.mapped_file import MappedFile

__all__ = ["ALIGNMENT", "PackedFile", "PackedMatrix", "packed_header", "packed_parts"]

ALIGNMENT = 64
_FORMAT = "tektra packed weights"
_VERSION = "1"
# As the safetensors package has it.
_MAX_HEADER_BYTES = 100_000_000


class PackedMatrix(NamedTuple):
    """One matrix of a packed copy.

    Attributes:
        name: of the tensor in the model file.
        type: name of its block type there.
        rows, width: its shape.
        num_bytes: of the packed matrix, what kernels may look at past its end included; a multiple
            of `ALIGNMENT`.
    """

    name: str
    type: str
    rows: int
    width: int
    num_bytes: int


def packed_header(source: str, layout: str, matrices: Sequence[PackedMatrix]) -> bytes:
    """Everything before the data: the length of the header, and the header.

    Specification: huggingface.co/docs/safetensors. Each matrix is a tensor of bytes (``U8``); one
    follows the other without holes, and as the header is padded, each begins at a multiple of
    `ALIGNMENT` in the file.

    Args:
        source: SHA-256 digest of the model file.
        layout: name of the layout, with its version.
        matrices: in the order in which they lie in the file.

    Raises:
        FormatError: two matrices have one name, or a size is not a multiple of `ALIGNMENT`.
    """
    about = {"format": _FORMAT, "version": _VERSION, "source": source, "layout": layout}
    header: dict[str, object] = {"__metadata__": about}
    begin = 0
    for matrix in matrices:
        if matrix.name in header:
            raise FormatError(f"matrix {matrix.name!r} is there twice, or has a reserved name")
        if matrix.num_bytes <= 0 or matrix.num_bytes % ALIGNMENT:
            raise FormatError(f"matrix {matrix.name!r} has {matrix.num_bytes} bytes")
        about[f"matrix {matrix.name}"] = f"{matrix.type} {matrix.rows} x {matrix.width}"
        end = begin + matrix.num_bytes
        header[matrix.name] = {
            "dtype": "U8",
            "shape": [matrix.num_bytes],
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    padded = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8
    if padded > _MAX_HEADER_BYTES:
        raise FormatError(f"the header of a packed copy would have {padded} bytes")
    return padded.to_bytes(8, "little") + text.ljust(padded)


def packed_parts(
    header: bytes, matrices: Sequence[PackedMatrix], data: Mapping[str, NDArray[np.uint8]]
) -> Iterator[bytes | NDArray[np.uint8]]:
    """The bytes of the file, part by part.

    Args:
        header: from `packed_header`.
        matrices: as the header has them.
        data: uint8 [num_bytes] of each of them by name.

    Raises:
        FormatError: a matrix has another size.
    """
    yield header
    for matrix in matrices:
        part = data[matrix.name]
        if part.nbytes != matrix.num_bytes:
            raise FormatError(
                f"matrix {matrix.name!r} has {part.nbytes} bytes, not {matrix.num_bytes}"
            )
        yield part


class PackedFile:
    """A packed copy, mapped for reading.

    The matrices are views of the mapping, which lives as long as one of them. What they hold is
    not looked at here.

    Attributes:
        path: as it was given.
        status: of the file when it was opened.
        matrices: uint8 [num_bytes] of each matrix by name, read-only.
        large_pages: whether they are in large pages, as far as is known.
    """

    def __init__(self, file: MappedFile, begin: int, matrices: Sequence[PackedMatrix]) -> None:
        """Use `PackedFile.open`."""
        self.path = file.path
        self.status = file.status
        self.large_pages = file.read_ahead()
        self.matrices: dict[str, NDArray[np.uint8]] = {}
        for matrix in matrices:
            end = begin + matrix.num_bytes
            self.matrices[matrix.name] = file.raw[begin:end]
            begin = end

    @classmethod
    def open(cls, path: Path, source: str, layout: str, matrices: Sequence[PackedMatrix]) -> Self:
        """Maps the packed copy at `path`, which must be that of this model in this layout.

        Raises:
            ModelNotFoundError: there is no such file.
            FormatError: it is another one, or damaged, or cannot be read.
            MemoryLimitError: there is no address space left to map it.
        """
        header = packed_header(source, layout, matrices)
        file = MappedFile.open(path)
        wanted = len(header) + sum(matrix.num_bytes for matrix in matrices)
        if file.raw.size != wanted:
            raise FormatError(f"{path.name} has {file.raw.size} bytes, not {wanted}")
        if bytes(file.raw[: len(header)]) != header:
            raise FormatError(f"{path.name} is not the packed copy that was looked for")
        return cls(file, len(header), matrices)
