"""A Hugging Face model directory, seen as the GGUF file that it would be.

Metadata, tensors and bytes as `GGUFFile` has them, made from the checkpoint when they are asked
for, by the description in the architecture's file. It knows neither backends nor tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.checkpoint import CONFIG, Checkpoint
from tektra.formats.checkpoint_extras import extra_metadata
from tektra.formats.checkpoint_tensors import LogicalTensor, logical_tensors
from tektra.formats.ggml_types import GGMLType
from tektra.formats.hf_config import HfConfig
from tektra.formats.quants import dequantize
from tektra.formats.sentence_files import sentence_metadata
from tektra.formats.tensor_info import TensorInfo
from tektra.models import checkpoint_format
from tektra.models.checkpoint_format import DROPPED, CheckpointFormat, To, compiled
from tektra.models.checkpoint_steps import apply_steps, shape_after

__all__ = ["CheckpointView"]

_MAX_NAMED = 4
_WHOLE_KEYS = ("general.", "tokenizer.")
# Goes up when a checkpoint gives other weights than it did before.
_VERSION = 1
_MAX_EXPERTS = 1 << 14


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a tensor of the view comes from: one tensor, or those of the experts, and the way."""

    parts: tuple[LogicalTensor, ...]
    to: To
    stacked: bool


class CheckpointView:
    """A model directory with GGUF's names, keys and layouts, open for reading.

    Safe to share among threads. The same protocol as `GGUFFile`. A tensor that only goes by another
    name is a view of the mapped file; others are made anew each time that they are asked for.

    Attributes:
        checkpoint: the directory as it is.
        format: how it was read.
        config: config.json, or the part of it that describes the text model.
        metadata: values by GGUF's keys, without the tokenizer.
        tensors: by GGUF's names. `TensorInfo.file` and `offset` say where the first byte came from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        format: CheckpointFormat,
        tensors: Mapping[str, LogicalTensor] | None = None,
    ) -> None:
        """Args:
        checkpoint: the open directory, which `close` closes.
        format: how to read it.
        tensors: its tensors, of a checkpoint whose tensors were read by other means.

        Raises:
            FormatError: config.json or the tensors are malformed or disagree.
            UnsupportedModelError: there are tensors or settings that are not supported.
        """
        self.checkpoint = checkpoint
        self.format: Final = format
        self.config = _text_config(checkpoint.config, format)
        found = dict(logical_tensors(checkpoint) if tensors is None else tensors)
        prefix = next((p for p in format.prefixes if any(name.startswith(p) for name in found)), "")
        named = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        if len(named) < len(found):
            raise FormatError(f"tensors are there both with {prefix!r} in front and without")
        _tie(named, self.config, format)
        metadata: dict[str, Any] = {"general.architecture": format.architecture}
        metadata |= extra_metadata(checkpoint.folder, checkpoint.generation_config)
        metadata |= sentence_metadata(checkpoint.folder, checkpoint.config, format.architecture)
        for key, value in format.metadata(self.config).items():
            whole = key.startswith(_WHOLE_KEYS)
            metadata[key if whole else f"{format.architecture}.{key}"] = value
        self.metadata: Mapping[str, Any] = MappingProxyType(metadata)
        self._made = {
            name: np.ascontiguousarray(array, np.float32)
            for name, array in format.made(self.config).items()
        }
        self._origins = _origins(named, format)
        infos: dict[str, TensorInfo] = {}
        for name, origin in self._origins.items():
            infos[name] = self._info(name, origin)
        for name, array in self._made.items():
            if name in infos:
                raise FormatError(f"the tensor {name!r} is both made and there")
            infos[name] = TensorInfo(name, array.shape, GGMLType.F32, 0, 0, array.nbytes)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(infos)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Opens a model directory.

        Raises:
            ModelNotFoundError, FormatError, MemoryLimitError: as `Checkpoint.open` has it.
            UnsupportedModelError: the class in config.json, a tensor or a setting is not supported.
        """
        from tektra.models import checkpoint_format_of

        checkpoint = Checkpoint.open(folder)
        try:
            config = HfConfig(checkpoint.config, name=CONFIG)
            return cls(checkpoint, checkpoint_format_of(config.class_name()))
        except BaseException:
            checkpoint.close()
            raise

    @property
    def format_name(self) -> str:
        """``"safetensors"``."""
        return "safetensors"

    @property
    def version(self) -> int | None:
        """Version of the format: safetensors has none."""
        return None

    @property
    def path(self) -> Path:
        """The directory."""
        return self.checkpoint.folder

    @property
    def paths(self) -> tuple[Path, ...]:
        """config.json and the files with weights."""
        return self.checkpoint.paths

    @property
    def statuses(self) -> tuple[os.stat_result, ...]:
        """What the system said of each of `paths` when it was opened."""
        return self.checkpoint.statuses

    @property
    def variant(self) -> str:
        """A digest of what besides the files with weights makes the weights what they are."""
        text = json.dumps([_VERSION, dict(self.checkpoint.config)], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def file_bytes(self) -> int:
        """Size of the files with weights together, in bytes."""
        return self.checkpoint.file_bytes

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor as a GGUF file would have them: read-only uint8 [nbytes].

        Raises:
            FormatError: the model has no such tensor, or a file was cut short since it was opened.
            ValueError: the model was closed.
        """
        info = self._tensor(name)
        if name in self._made:
            return self._made[name].reshape(-1).view(np.uint8)
        origin = self._origins[name]
        pieces = [self._piece(part, origin) for part in origin.parts]
        data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if data.size != info.nbytes:
            raise AssertionError(f"{name}: {data.size} bytes, not {info.nbytes}")
        data.flags.writeable = False
        return data

    def check_unchanged(self) -> None:
        """Raises `FormatError` where a file was written to since it was opened."""
        self.checkpoint.check_unchanged()

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor as a new float32 array of its shape.

        Raises:
            FormatError: the model has no such tensor.
            UnsupportedModelError: its type cannot be decoded.
        """
        info = self._tensor(name)
        return dequantize(self.tensor_bytes(name), info.type, info.shape, name=name)

    def close(self) -> None:
        """Lets go of the files. Each is unmapped once no view of it is left."""
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CheckpointView({str(self.path)!r}, {len(self.tensors)} tensors)"

    def _tensor(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise FormatError(f"{self.path.name} has no tensor {name!r}") from None

    def _heads(self, key: str) -> int:
        value = self.metadata.get(f"{self.format.architecture}.{key}")
        if not isinstance(value, int):
            raise ValueError(f"{self.format.architecture}: the metadata has no number {key!r}")
        return value

    def _info(self, name: str, origin: _Origin) -> TensorInfo:
        """What is known of a tensor, from its parts."""
        first = origin.parts[0]
        for part in origin.parts[1:]:
            if (part.shape, part.type) != (first.shape, first.type):
                raise FormatError(
                    f"{first.name!r} is {first.type.name} of shape {first.shape}, but "
                    f"{part.name!r} is {part.type.name} of shape {part.shape}"
                )
        shape, type_ = shape_after(
            origin.to.steps, first.shape, first.type, name=first.name, heads=self._heads
        )
        if origin.stacked:
            shape = (len(origin.parts), *shape)
        if len(shape) <= 1:
            type_ = GGMLType.F32  # as GGUF has all vectors; it is exact
        width = shape[-1] if shape else 1
        rows = int(np.prod(shape[:-1], dtype=object)) if shape else 1
        stored = self.checkpoint.tensors.get(first.name)
        return TensorInfo(
            name,
            shape,
            type_,
            0 if stored is None else stored.file,
            0 if stored is None else stored.offset,
            rows * type_.row_bytes(width),
        )

    def _piece(self, part: LogicalTensor, origin: _Origin) -> NDArray[np.uint8]:
        data, shape, type_ = apply_steps(
            origin.to.steps, part.read(), part.shape, part.type, name=part.name, heads=self._heads
        )
        if len(shape) <= 1 and not origin.stacked and type_ is not GGMLType.F32:
            return dequantize(data, type_, shape, name=part.name).reshape(-1).view(np.uint8)
        return data


def _text_config(config: Mapping[str, Any], format: CheckpointFormat) -> HfConfig:
    whole = HfConfig(config, name=CONFIG)
    text = None if format.text_config is None else whole.sub(format.text_config)
    return whole if text is None else text


def _tie(named: dict[str, LogicalTensor], c: HfConfig, format: CheckpointFormat) -> None:
    """Leaves of tied tensors the embeddings alone; both where they differ, as transformers does."""
    output, embeddings = format.tied
    tied = c.bool("tie_word_embeddings", default=format.tied_by_default)
    if not tied or output not in named:
        if not tied and embeddings in named and output not in named and _wants(format, output):
            raise FormatError(
                f"the model has no tensor {output!r}, and config.json does not say "
                "'tie_word_embeddings'",
                remedy="the files are incomplete: get them anew",
            )
        return
    if embeddings not in named:
        named[embeddings] = named.pop(output)
        return
    one, other = named[output], named[embeddings]
    if (one.shape, one.type) == (other.shape, other.type) and np.array_equal(
        one.read(), other.read()
    ):
        del named[output]


def _wants(format: CheckpointFormat, name: str) -> bool:
    return any(compiled(p, suffix=True).fullmatch(name) for p in format.tensors)


def _origins(named: Mapping[str, LogicalTensor], format: CheckpointFormat) -> dict[str, _Origin]:
    """Where each tensor of the view comes from.

    Raises:
        UnsupportedModelError: a tensor has no place.
        FormatError: two tensors have one place, or experts are missing.
    """
    rules = [(compiled(p, suffix=True), target) for p, target in format.tensors.items()]
    dropped = [compiled(pattern, suffix=False) for pattern in (*DROPPED, *format.dropped)]
    places: dict[str, To] = {}
    parts: dict[str, dict[int | None, LogicalTensor]] = defaultdict(dict)
    unused: list[str] = []
    for name, tensor in named.items():
        targets = _targets(name, rules)
        if not targets and not any(pattern.fullmatch(name) for pattern in dropped):
            unused.append(name)
        for target, expert in targets:
            places[target.name] = target
            if expert in parts[target.name]:
                other = parts[target.name][expert].name
                raise FormatError(f"{other!r} and {name!r} are both {target.name!r}")
            parts[target.name][expert] = tensor
    if unused:
        more = f" and {len(unused) - _MAX_NAMED} more" if len(unused) > _MAX_NAMED else ""
        raise UnsupportedModelError(
            f"the checkpoint has tensors that a {format.architecture!r} model does not use: "
            f"{', '.join(map(repr, unused[:_MAX_NAMED]))}{more}",
            remedy="it is a variant that is not supported; leaving them out would change answers",
        )
    return {name: _origin(name, places[name], found) for name, found in parts.items()}


def _targets(
    name: str, rules: list[tuple[Any, checkpoint_format.Target]]
) -> list[tuple[To, int | None]]:
    """The places of a tensor, with its expert; a rule for its whole name goes first."""
    best: list[tuple[To, int | None]] = []
    for pattern, target in rules:
        found = checkpoint_format.match(pattern, name)
        if found is None or (best and found[2]):
            continue
        layer, expert, suffix = found
        tos = target if isinstance(target, tuple) else (target,)
        best = []
        for one in tos:
            to = To(one) if isinstance(one, str) else one
            place = to.name.replace("{i}", layer.get("i", "")) + suffix
            best.append((To(place, *to.steps), expert))
        if not suffix:
            break
    return best


def _origin(name: str, to: To, found: Mapping[int | None, LogicalTensor]) -> _Origin:
    if None in found:
        if len(found) > 1:
            raise FormatError(f"{name!r} is there both as a whole and by experts")
        return _Origin((found[None],), to, False)
    numbers = sorted(number for number in found if number is not None)
    if len(numbers) > _MAX_EXPERTS or numbers != list(range(len(numbers))):
        missing = next(n for n in range(len(numbers) + 1) if n not in found)
        raise FormatError(
            f"of {name!r} expert {missing} is missing, although expert {numbers[-1]} is there",
            remedy="the files are incomplete: get them anew",
        )
    return _Origin(tuple(found[number] for number in numbers), to, True)
