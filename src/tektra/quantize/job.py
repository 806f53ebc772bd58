"""Writes a model in other types to a GGUF file, tensor by tensor.

It checks before it begins: the source, the target, the room on the disk. At no time is more than
one tensor in memory.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.engine.model_files import ModelFile, open_model
from tektra.engine.resources import usable_cores
from tektra.errors import InvalidParameterError, ModelNotFoundError, StorageError
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.formats.tensor_info import TensorInfo
from tektra.progress import CancelToken, ProgressCallback, ignore_progress
from tektra.quantize.encode import Encoder
from tektra.quantize.imatrix import ImportanceMatrix
from tektra.quantize.mixes import choose_types
from tektra.quantize.recipe import Recipe
from tektra.quantize.view import QuantizedView, check_source

__all__ = ["Quantized", "quantize_model"]

_QUANTIZATION_VERSION = 2  # of ggml's blocks
# For the header: tensor table, alignment, and metadata besides the source's.
_MARGIN = 1 << 20


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was done, or would be.

    Attributes:
        path: the file.
        recipe: how.
        before, after: bytes of tensor data.
        num_weights: weights in all tensors.
        tensors: of the new file, by name.
        without_importance: matrices that were quantized without an entry in the importance matrix;
            empty where none was given.
    """

    path: Path
    recipe: Recipe
    before: int
    after: int
    num_weights: int
    tensors: Mapping[str, TensorInfo]
    without_importance: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.after / max(1, self.num_weights)

    @property
    def types(self) -> dict[str, int]:
        """How many tensors have each type."""
        return dict(Counter(info.type.name for info in self.tensors.values()))


def quantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe | str,
    *,
    imatrix: str | os.PathLike[str] | ImportanceMatrix | None = None,
    threads: int | None = None,
    allow_requantize: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> Quantized:
    """Writes a model in other types to a GGUF file.

    Args:
        source: a GGUF file, one file of a split one, or a directory with safetensors weights.
        target: the file to write.
        recipe: what tensors become; a name such as ``"q4_k_m"``, or a `Recipe`.
        imatrix: an importance matrix, or its file.
        threads: that compute; None for the physical cores.
        allow_requantize: take a source that is quantized already.
        force: replace the target where it is there.
        dry_run: check everything and write nothing.
        progress: told after each tensor; stage "quantize", in bytes written.
        cancel: looked at before each tensor.

    Raises:
        InvalidParameterError: an option is out of range, or the target is there or is the source.
        ModelNotFoundError, FormatError, UnsupportedModelError, TokenizerError: the source cannot
            be used, or is quantized already.
        StorageError: there is no room for the target.
        CancelledError: ``cancel`` was used; nothing is left behind.
        OSError: the file cannot be written; nothing is left behind.
    """
    recipe = Recipe.of(recipe) if isinstance(recipe, str) else recipe
    origin, path = Path(source), Path(target)
    if threads is not None and not 1 <= threads <= 1024:
        raise InvalidParameterError("threads", f"must be from 1 to 1024, not {threads}")
    if not origin.exists():
        raise ModelNotFoundError(f"there is no file {origin}")
    matrix = imatrix
    if matrix is not None and not isinstance(matrix, ImportanceMatrix):
        matrix = ImportanceMatrix.read(matrix)
    with open_model(origin) as file:
        _check_target(path, file, force=force)
        importance = {} if matrix is None else matrix.weights(file.tensors)
        types = choose_types(file.metadata, file.tensors, recipe, importance=matrix is not None)
        check_source(
            file, types, allow_requantize=allow_requantize, option="give --allow-requantize"
        )
        view = QuantizedView(file, types, Encoder(threads or usable_cores()), importance=importance)
        metadata = _metadata(file, recipe, matrix, imatrix)
        result = _result(path, recipe, file, view, importance, matrix)
        if dry_run:
            return result
        _check_room(path, result.after + _MARGIN)

        def report(event: Any) -> None:
            progress(type(event)("quantize", event.item, event.done, event.total, event.unit))

        write_gguf(path, metadata, _sources(file, view), progress=report, cancel=cancel)
        return result


def _sources(file: ModelFile, view: QuantizedView) -> list[TensorSource]:
    def bytes_of(name: str) -> Callable[[], NDArray[np.uint8]]:
        def read() -> NDArray[np.uint8]:
            data = view.tensor_bytes(name)
            file.check_unchanged()
            return data

        return read

    return [
        (info.name, info.shape, info.type, bytes_of(info.name)) for info in view.tensors.values()
    ]


def _metadata(
    file: ModelFile, recipe: Recipe, matrix: ImportanceMatrix | None, given: object
) -> dict[str, Any]:
    if isinstance(file, GGUFFile):
        metadata: dict[str, Any] = dict(file.typed_metadata)
    else:
        from tektra.tokenizer.to_gguf import tokenizer_metadata

        metadata = dict(file.metadata)
        metadata.update(tokenizer_metadata(file.path, vocab_size=_vocabulary(file)))
    metadata["general.quantization_version"] = Typed(_QUANTIZATION_VERSION, "u32")
    metadata["general.file_type"] = Typed(recipe.file_type, "u32")
    for key in [key for key in metadata if key.startswith("quantize.imatrix.")]:
        del metadata[key]
    if matrix is not None:
        name = os.fspath(given) if isinstance(given, str | os.PathLike) else "imatrix"
        metadata["quantize.imatrix.file"] = Path(str(name)).name
        if matrix.datasets:
            metadata["quantize.imatrix.dataset"] = matrix.datasets[0]
        metadata["quantize.imatrix.entries_count"] = Typed(len(matrix.entries), "u32")
        if matrix.num_chunks:
            metadata["quantize.imatrix.chunks_count"] = Typed(matrix.num_chunks, "u32")
    return metadata


def _vocabulary(file: ModelFile) -> int | None:
    info = file.tensors.get("token_embd.weight")
    return None if info is None else info.shape[0]


def _result(
    path: Path,
    recipe: Recipe,
    file: ModelFile,
    view: QuantizedView,
    importance: Mapping[str, object],
    matrix: ImportanceMatrix | None,
) -> Quantized:
    changed = [
        name
        for name, info in view.tensors.items()
        if info.type.block_size > 1 and info.type is not file.tensors[name].type
    ]
    return Quantized(
        path=path,
        recipe=recipe,
        before=sum(info.nbytes for info in file.tensors.values()),
        after=sum(info.nbytes for info in view.tensors.values()),
        num_weights=sum(info.num_elements for info in view.tensors.values()),
        tensors=view.tensors,
        without_importance=()
        if matrix is None
        else tuple(name for name in changed if name not in importance),
    )


def _check_target(path: Path, file: ModelFile, *, force: bool) -> None:
    if path.is_dir():
        raise InvalidParameterError("target", f"{path} is a directory", remedy="name a file in it")
    if not path.parent.is_dir():
        raise InvalidParameterError(
            "target", f"the directory {path.parent} is not there", remedy="make it first"
        )
    if not path.exists():
        return
    if any(path.samefile(other) for other in file.paths if other.exists()):
        raise InvalidParameterError(
            "target", f"{path} is the source", remedy="write to another file"
        )
    if not force:
        raise InvalidParameterError(
            "target", f"{path} is there already", remedy="give --force to replace it"
        )


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.name} takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free "
            f"in {path.parent}",
            remedy="make room, or write to another disk",
        )
