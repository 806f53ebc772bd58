"""What every architecture has in common: its sizes, and the way from a model file to a graph.

Reads metadata and the shapes of tensors; never the weights themselves. It knows neither devices
nor requests.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph, OutputName

__all__ = [
    "LONGROPE_TENSORS",
    "MAX_CONTEXT",
    "MAX_HEADS",
    "MAX_LAYERS",
    "MAX_WIDTH",
    "OPENED_FOR",
    "Architecture",
    "DrawnModel",
    "ModelConfig",
    "Shapes",
    "check_width",
    "draw",
    "read_num_layers",
    "read_vocab_size",
    "uniform_int",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the tensors of a model by name, rows first."""

MAX_LAYERS: Final = 1 << 12
MAX_HEADS: Final = 1 << 14
MAX_WIDTH: Final = 1 << 22
MAX_CONTEXT: Final = 1 << 28
"""Bounds on what metadata may say: far above every model there is, far below what would wrap."""

LONGROPE_TENSORS: Final = ("rope_factors_long.weight", "rope_factors_short.weight")
OPENED_FOR: Final = "tektra.opened_for"
"""Stands in the metadata that an architecture reads for the context of `draw`."""

_LAYER_NAME = re.compile(r"blk\.([0-9]{1,9})\.")
_MAX_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(ABC):
    """The sizes that are known of every model.

    Attributes:
        architecture: name of the architecture, as in `tektra.models.ARCHITECTURES`.
        num_layers: transformer layers.
        context_length: tokens that the model was made to read at once.
        vocab_size: rows of the embedding table, and width of the logits.
        embedding_width: width of the hidden state between layers.
    """

    architecture: str
    num_layers: int
    context_length: int
    vocab_size: int
    embedding_width: int

    @property
    def outputs(self) -> Mapping[OutputName, int]:
        """The outputs that the graph names, and how wide each is."""
        return {"logits": self.vocab_size, "hidden": self.embedding_width}

    @classmethod
    @abstractmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        """Reads the configuration from metadata with GGUF's keys.

        Raises:
            FormatError: a value is missing or out of range; the error names the key.
            UnsupportedModelError: the model needs something that is not there yet.
        """


class Architecture(Protocol):
    """What a module in this folder has."""

    @property
    def Config(self) -> type[ModelConfig]: ...

    @property
    def build(self) -> BuildFunction: ...


class BuildFunction(Protocol):
    """Draws a model of a configuration into an empty graph."""

    def __call__(self, g: Graph, c: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class DrawnModel:
    """A model that is ready to be compiled by a backend."""

    config: ModelConfig
    graph: Graph


def draw(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    *,
    name: str = "",
    context: int | None = None,
) -> DrawnModel:
    """Draws the graph of a model from the header of its file.

    Args:
        metadata: metadata with GGUF's keys.
        tensors: the tensors of the file, by GGUF's names.
        name: the file, for errors.
        context: most tokens of one sequence, where that is known: models with LongRoPE have other
            rotary positions where it is more than they were first trained with.

    Raises:
        FormatError: metadata or tensors are missing, out of range, or disagree.
        UnsupportedModelError: the architecture, or something that the file asks of it, is not
            supported; also when the file has tensors that the architecture does not use, since
            leaving them out would change the answers.
    """
    from tektra.models import architecture
    from tektra.models.unread_keys import AskedKeys, refuse_unread

    opened = {} if context is None else {OPENED_FOR: context}
    values = AskedKeys({k: v for k, v in metadata.items() if k != OPENED_FOR} | opened)
    m = Metadata(values, name=name)
    module = architecture(m.str("general.architecture"))
    shapes = {tensor: info.shape for tensor, info in tensors.items()}
    config = module.Config.from_metadata(m, shapes)
    refuse_unread(values, config.architecture)
    graph = Graph(shapes)
    module.build(graph, config)
    _check_outputs(graph, config)
    _check_all_used(graph, shapes, config.architecture)
    return DrawnModel(config, graph)


# Helpers of the architectures


def read_num_layers(m: Metadata, shapes: Shapes, key: str) -> int:
    """The number of layers, which has to be that of the layers in the file."""
    num_layers = m.int(key, minimum=1, maximum=MAX_LAYERS)
    found = {int(match[1]) for name in shapes if (match := _LAYER_NAME.match(name))}
    if found != set(range(num_layers)):
        raise FormatError(
            f"the metadata key {key!r} is {num_layers}, but the file has tensors of "
            f"{len(found)} layers" + (f", the last of which is {max(found)}" if found else ""),
            remedy="the file is damaged or incomplete: fetch it again",
        )
    return num_layers


def read_vocab_size(m: Metadata, shapes: Shapes, key: str) -> int:
    """Rows of the embedding table; the metadata may repeat the number, but not another one."""
    rows = shapes.get("token_embd.weight", (0,))[0]
    if not 0 < rows < 1 << 31:
        raise FormatError("the model has no tensor 'token_embd.weight' with a row for each token")
    stated = m.int(key, default=rows, minimum=1)
    if stated != rows:
        raise FormatError(
            f"the metadata key {key!r} is {stated}, but 'token_embd.weight' has {rows} rows"
        )
    return rows


def uniform_int(
    m: Metadata, key: str, num_layers: int, *, default: int | None = None, maximum: int
) -> int:
    """A positive integer that may be stored once for each layer, but has to be the same in all."""
    if default is not None and not m.has(key):
        return default
    values = set(m.int_per_layer(key, num_layers, minimum=1, maximum=maximum))
    if len(values) > 1:
        raise UnsupportedModelError(
            f"the metadata key {key!r} differs from layer to layer ({min(values)} to "
            f"{max(values)}), which is not supported for this architecture"
        )
    return values.pop()


def check_width(shapes: Shapes, tensor: str, axis: int, expected: int, keys: str) -> None:
    """Raises `FormatError` where a tensor is there and contradicts the metadata.

    Args:
        shapes: of all tensors.
        tensor: name of a matrix.
        axis: 0 for its rows, 1 for its width.
        expected: what the metadata says.
        keys: which keys say so, for the error.
    """
    shape = shapes.get(tensor)
    if shape is not None and (len(shape) != 2 or shape[axis] != expected):
        what = ("rows", "columns")[axis]
        raise FormatError(
            f"the metadata ({keys}) asks for {expected} {what} in {tensor!r}, "
            f"which has the shape {shape}"
        )


def _check_outputs(graph: Graph, config: ModelConfig) -> None:
    expected = config.outputs
    for output, value in graph.outputs.items():
        if value.width != expected.get(output):
            raise FormatError(
                f"the {output} of the model are {value.width} wide, not {expected.get(output)}: "
                "'output.weight' and 'token_embd.weight' disagree"
            )
    missing = expected.keys() - graph.outputs.keys()
    if missing:
        raise ValueError(f"{config.architecture}: build names no output {sorted(missing)}")


def _check_all_used(graph: Graph, names: Collection[str], architecture: str) -> None:
    used = set(graph.weight_names)
    if not used.isdisjoint(LONGROPE_TENSORS):
        used.update(LONGROPE_TENSORS)  # one of the two is for another length of context
    unused = [name for name in names if name not in used]
    if unused:
        more = f" and {len(unused) - _MAX_NAMED} more" if len(unused) > _MAX_NAMED else ""
        raise UnsupportedModelError(
            f"the file has tensors that a {architecture!r} model does not use: "
            f"{', '.join(map(repr, unused[:_MAX_NAMED]))}{more}",
            remedy="it is a variant that is not supported; leaving them out would change answers",
        )
