"""Writes GGUF models, whole or split, one tensor at a time.

A file appears under its name only when it is complete and on disk. It does not know how weights
are encoded (see `quants`) or which metadata a model needs.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from numpy.typing import NDArray

from tektra.errors import FormatError, InvalidParameterError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import SPLIT_KEYS, split_name
from tektra.formats.gguf_encode import encode_key, encode_string
from tektra.formats.gguf_header import DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_DIMS, MIN_ALIGNMENT
from tektra.formats.gguf_values import Typed
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent, ignore_progress

__all__ = ["BytesLike", "TensorSource", "write_gguf"]

BytesLike: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]
TensorSource: TypeAlias = tuple[str, tuple[int, ...], GGMLType, BytesLike | Callable[[], BytesLike]]
"""(name, shape in NumPy order, type, the stored bytes or a function that makes them)."""

_MAX_TENSOR_NAME_BYTES = 63  # ggml keeps 64, the last of them 0
_ALIGNMENT_KEY = "general.alignment"


class _Planned(NamedTuple):
    name: str
    info: bytes
    """Name, dimensions and type as they stand in the tensor table; the offset comes after."""
    nbytes: int
    data: BytesLike | Callable[[], BytesLike]


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Iterable[TensorSource],
    *,
    alignment: int | None = None,
    split_max_bytes: int | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> tuple[Path, ...]:
    """Writes a model as GGUF version 3.

    Each file is written beside its place under a temporary name, brought to disk and then renamed,
    so that no reader ever sees a part of one; what stood there before is replaced.

    Args:
        path: the file to write. Of a split model this gives folder and stem: ``model.gguf``
            becomes ``model-00001-of-00003.gguf`` and so on.
        metadata: values by key, in the order in which they are written: bool, int (u32, or i32,
            u64, i64 where it needs to be), float (f32), str, a list of one of these, a NumPy
            array, a `GGUFArray`, or `Typed` for an exact type.
        tensors: what to write, in order. The data of large tensors is best given as functions:
            each is called when its turn has come, and its result is let go of.
        alignment: of each tensor in its file, in bytes, a power of two; ``None`` takes the
            metadata's ``general.alignment``, or 32 where there is none.
        split_max_bytes: begin another file when the tensor data in one would exceed this; a
            tensor larger than this gets a file of its own. ``None`` writes one file.
        progress: told after each tensor; stage "write", in bytes of tensor data.
        cancel: looked at before each tensor.

    Returns:
        The files written, in order; ``(path,)`` where one was enough.

    Raises:
        FormatError: metadata or a tensor cannot be stored, or its data is not of the size that
            shape and type ask for.
        InvalidParameterError: alignment or split size is out of range.
        CancelledError: `cancel` was used; nothing is left behind.
        OSError: a file cannot be written; nothing is left behind.
    """
    target = Path(path)
    keys, aligned_to = _plan_metadata(metadata, alignment)
    planned = _plan_tensors(tensors)
    groups = _plan_splits(planned, aligned_to, split_max_bytes)
    paths = _split_targets(target, len(groups))
    report = _Reporter(sum(t.nbytes for t in planned), progress, cancel)
    pending: list[tuple[Path, Path]] = []
    try:
        for index, (place, group) in enumerate(zip(paths, groups, strict=True)):
            header_keys = list(keys) if index == 0 else []
            if index and aligned_to != DEFAULT_ALIGNMENT:
                header_keys.append(encode_key(_ALIGNMENT_KEY, Typed(aligned_to, "u32")))
            if len(groups) > 1:
                header_keys += _split_keys(index, len(groups), len(planned))
            temporary = place.with_name(f".{place.name}.{secrets.token_hex(6)}.tmp")
            with temporary.open("xb") as file:
                pending.append((temporary, place))
                _write_file(file, header_keys, group, aligned_to, report)
                file.flush()
                os.fsync(file.fileno())
        while pending:
            temporary, place = pending[0]
            temporary.replace(place)
            pending.pop(0)
        _sync_folder(target.parent)
    finally:
        for temporary, _ in pending:
            with suppress(OSError):
                temporary.unlink()
    return paths


def _plan_metadata(metadata: Mapping[str, Any], alignment: int | None) -> tuple[list[bytes], int]:
    values = dict(metadata)
    for key in SPLIT_KEYS:
        if key in values:
            raise FormatError(
                f"the metadata key {key!r} cannot be set: it is the writer that splits",
                remedy="leave it out, and give split_max_bytes",
            )
    stored = values.pop(_ALIGNMENT_KEY, None)
    stored = stored.value if isinstance(stored, Typed) else stored
    if alignment is None:
        alignment = DEFAULT_ALIGNMENT if stored is None else stored
    elif stored is not None and stored != alignment:
        raise InvalidParameterError(
            "alignment", f"is {alignment}, but the metadata says {_ALIGNMENT_KEY} = {stored!r}"
        )
    whole = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not whole or not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise InvalidParameterError(
            "alignment",
            f"must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}, not {alignment!r}",
        )
    keys = [encode_key(key, value) for key, value in values.items()]
    if stored is not None or alignment != DEFAULT_ALIGNMENT:
        keys.append(encode_key(_ALIGNMENT_KEY, Typed(alignment, "u32")))
    return keys, alignment


def _plan_tensors(tensors: Iterable[TensorSource]) -> list[_Planned]:
    planned: list[_Planned] = []
    seen: set[str] = set()
    for name, shape, ggml_type, data in tensors:
        if name in seen:
            raise FormatError(f"the tensor {name!r} is given twice")
        seen.add(name)
        try:
            encoded = encode_string(name.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise FormatError(f"the tensor name {name!r} is not valid Unicode") from error
        if not 0 < len(encoded) - 8 <= _MAX_TENSOR_NAME_BYTES:
            raise FormatError(
                f"the tensor name {name!r} must have 1 to {_MAX_TENSOR_NAME_BYTES} bytes"
            )
        if len(shape) > MAX_DIMS or any(dim < 1 for dim in shape):
            raise FormatError(
                f"tensor {name!r} has the shape {shape}; "
                f"up to {MAX_DIMS} dimensions of 1 or more can be stored"
            )
        try:
            row_bytes = ggml_type.row_bytes(shape[-1] if shape else 1)
        except FormatError as error:
            raise FormatError(f"tensor {name!r}: {error.message}") from None
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        info = encoded + dims + struct.pack("<I", ggml_type)
        planned.append(_Planned(name, info, math.prod(shape[:-1]) * row_bytes, data))
    return planned


def _plan_splits(
    planned: Sequence[_Planned], alignment: int, max_bytes: int | None
) -> list[list[_Planned]]:
    if max_bytes is None:
        return [list(planned)]
    if max_bytes < 1:
        raise InvalidParameterError("split_max_bytes", f"must be 1 or more, not {max_bytes}")
    groups: list[list[_Planned]] = [[]]
    used = 0
    for tensor in planned:
        size = _padded(tensor.nbytes, alignment)
        if groups[-1] and used + size > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += size
    if len(groups) > 65535:  # split.count is 16 bits wide
        raise InvalidParameterError(
            "split_max_bytes", f"{max_bytes} makes {len(groups)} files; at most 65535 are possible"
        )
    return groups


def _split_targets(target: Path, count: int) -> tuple[Path, ...]:
    if count == 1:
        return (target,)
    stem = target.name.removesuffix(".gguf")
    return tuple(target.with_name(split_name(stem, index, count)) for index in range(count))


def _split_keys(index: int, count: int, num_tensors: int) -> list[bytes]:
    values = (Typed(index, "u16"), Typed(count, "u16"), Typed(num_tensors, "i32"))
    return [encode_key(key, value) for key, value in zip(SPLIT_KEYS, values, strict=True)]


class _Reporter:
    """Counts the bytes written over all files of one model."""

    def __init__(self, total: int, progress: ProgressCallback, cancel: CancelToken | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress
        self._cancel = cancel

    def check(self) -> None:
        if self._cancel is not None:
            self._cancel.check()

    def written(self, tensor: _Planned) -> None:
        self._done += tensor.nbytes
        event = ProgressEvent("write", tensor.name, self._done, self._total, "bytes")
        self._progress(event)


def _write_file(
    file: BinaryIO,
    keys: Sequence[bytes],
    tensors: Sequence[_Planned],
    alignment: int,
    report: _Reporter,
) -> None:
    offsets = _offsets(tensors, alignment)
    header = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)), *keys]
    header += [
        tensor.info + struct.pack("<Q", offset)
        for tensor, offset in zip(tensors, offsets, strict=False)
    ]
    size = sum(map(len, header))
    file.writelines(header)
    file.write(bytes(_padded(size, alignment) - size))
    for tensor in tensors:
        report.check()
        # In a function of its own, so that no name here keeps the data while the next is made.
        _write_tensor(file, tensor)
        file.write(bytes(_padded(tensor.nbytes, alignment) - tensor.nbytes))
        report.written(tensor)


def _write_tensor(file: BinaryIO, tensor: _Planned) -> None:
    view = memoryview(tensor.data() if callable(tensor.data) else tensor.data)  # type: ignore[arg-type]
    if view.nbytes != tensor.nbytes:
        raise FormatError(
            f"the data of tensor {tensor.name!r} has {view.nbytes} bytes; "
            f"its shape and type ask for {tensor.nbytes}"
        )
    if not view.c_contiguous:
        raise FormatError(f"the data of tensor {tensor.name!r} is not contiguous")
    file.write(view)


def _offsets(tensors: Sequence[_Planned], alignment: int) -> Iterator[int]:
    sizes = (_padded(tensor.nbytes, alignment) for tensor in tensors)
    return itertools.accumulate(sizes, initial=0)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _sync_folder(folder: Path) -> None:
    """Brings the renames to disk. Windows has no such call for folders, and does it by itself."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
