"""The protocol between the engine and a backend: a graph goes in, steps are run.

A backend knows graphs and weights; it knows neither architectures nor requests. The engine knows
steps; it knows neither how weights are laid out nor where the cache lies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tektra.config import KvType
from tektra.errors import UnsupportedModelError
from tektra.formats.low_rank import LowRankUpdate
from tektra.formats.packed import PackedMatrix
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph, OutputName
from tektra.graph.ops import Attention
from tektra.progress import CancelToken, ProgressCallback, ignore_progress

__all__ = [
    "CACHE_TYPES",
    "KV_BLOCK_SIZE",
    "Backend",
    "CacheType",
    "CompileOptions",
    "Executable",
    "KvGeometry",
    "MemoryUse",
    "PackedCopies",
    "PackedWeights",
    "Step",
    "WeightSource",
    "kv_geometry",
]

KV_BLOCK_SIZE = 32
"""Tokens in one block of the paged cache, on every backend.

It is also the tile in which attention reduces, so changing it changes results in the last bits.
"""

CacheType: TypeAlias = KvType
"""What a backend can keep keys and values as. ``"f32"`` rounds nothing: encoders, whose rows all
come in one step, have always that."""

CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)


class WeightSource(Protocol):
    """Where a backend reads weights from: a model file of any format."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def tensor_bytes(self, name: str, /) -> NDArray[np.uint8]:
        """The stored bytes of a tensor, 1-D, read-only, without a copy where possible."""
        ...


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """Packed matrices of an earlier load.

    Attributes:
        matrices: packed bytes by name, read-only. They stay as they are for as long as somebody
            holds the arrays.
        large_pages: whether reading them again and again where they are is as fast as it gets.
    """

    matrices: Mapping[str, NDArray[np.uint8]]
    large_pages: bool


class PackedCopies(Protocol):
    """Where a backend finds packed matrices from an earlier load, and leaves them for the next."""

    def find(self, layout: str, matrices: Sequence[PackedMatrix], /) -> PackedWeights | None:
        """The copy of just these matrices; None where there is none."""
        ...

    def offer(
        self,
        layout: str,
        matrices: Sequence[PackedMatrix],
        packed: Mapping[str, NDArray[np.uint8]],
        /,
    ) -> None:
        """Hands over matrices that were packed just now. Returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Sizes that are fixed when a model is loaded.

    Attributes:
        num_threads: threads that compute, the calling one included.
        max_rows: most token rows in one step.
        max_outputs: most output rows in one step; bounds the memory for logits.
        num_kv_blocks: blocks in the paged cache, each of `KV_BLOCK_SIZE` tokens over all layers.
        kv_type: what keys and values are kept as. They are rounded when they are written and
            always read back, so a result never depends on which step a token was in.
    """

    num_threads: int = 1
    max_rows: int = 512
    max_outputs: int = 32
    num_kv_blocks: int = 64
    kv_type: CacheType = "f16"


@dataclass(frozen=True, slots=True)
class Step:
    """One ragged batch: some new tokens of some sequences, run through the model together.

    Rows of one sequence are neighbours and in order. All arrays are C-contiguous int32.

    Attributes:
        token_ids: [T] token of each row.
        positions: [T] rotary position of each row.
        row_starts: [S + 1] rows of sequence s are row_starts[s] .. row_starts[s + 1] - 1.
        num_cached: [S] tokens of sequence s that the cache already holds; row i of the
            sequence is written to slot num_cached[s] + i.
        block_tables: [S, B] ids of the cache blocks of each sequence in order; entries past the
            last block in use are -1.
        output_rows: [O] rows whose result is wanted.
        segments: [T] which of the texts of its sequence each row belongs to, for models that
            embed that; ``None`` for zeros.
        adapters: [S, K] ids of the adapters of each sequence, -1 for none; None where no sequence
            has any. What they add is added in their order.
        adapter_scales: float32 [S, K], factors on what they add.
        block_starts: [B + 1] rows of block b are block_starts[b] .. block_starts[b + 1] - 1, for
            attention within blocks (windows of vision towers): each lies in one sequence and
            comes whole in one step, and together they are all rows. ``None`` where no attention
            of the graph has blocks.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    num_cached: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    output_rows: NDArray[np.int32]
    segments: NDArray[np.int32] | None = None
    adapters: NDArray[np.int32] | None = None
    adapter_scales: NDArray[np.float32] | None = None
    block_starts: NDArray[np.int32] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        return len(self.num_cached)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes by part: ``weights``, ``kv_cache``, ``activations`` and what a backend adds."""

    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class KvGeometry:
    """What one layer keeps of a token: kv heads, width of a key head and of a value head."""

    num_kv_heads: int
    head_dim: int
    value_dim: int


def kv_geometry(graph: Graph) -> list[KvGeometry]:
    """Cache geometry of each attention layer of a graph, by layer index."""
    layers = {
        op.layer: KvGeometry(op.spec.num_kv_heads, op.spec.head_dim, op.spec.value_dim)
        for op in graph.ops
        if isinstance(op, Attention)
    }
    return [layers[i] for i in sorted(layers)]


class Executable(ABC):
    """A compiled model with its weights and its cache. One step runs at a time."""

    options: CompileOptions

    @abstractmethod
    def run(self, step: Step, output: OutputName = "logits") -> NDArray[np.float32]:
        """Runs a step and returns float32 [O, width]: one row for each of ``step.output_rows``.

        The array may be a view that the next call overwrites. Raises `BackendError` when the
        step is not well-formed (ids, slots or rows out of range): a wrong step never reads or
        writes outside its memory.
        """

    def add_adapter(self, updates: Mapping[str, LowRankUpdate]) -> int:
        """Takes an adapter, between two steps, and returns the id that steps name it by.

        Ids are never given twice. ``updates`` are by the names of matrices that linears of the
        graph read. Raises `BackendError` where one is not, or is of another shape,
        `MemoryLimitError` when memory runs out, `UnsupportedModelError` where the backend has no
        adapters.
        """
        raise UnsupportedModelError(
            "this device does not run adapters", remedy="use device='cpu' or 'reference'"
        )

    def remove_adapter(self, adapter: int) -> None:
        """Frees an adapter, between two steps. Steps cannot name it any more."""
        raise UnsupportedModelError("this device does not run adapters")

    @property
    @abstractmethod
    def memory(self) -> MemoryUse:
        """What this executable holds."""

    @abstractmethod
    def close(self) -> None:
        """Frees everything. Safe to call twice."""


class Backend(ABC):
    """One way to compute: a device and the code for it."""

    name: str

    @abstractmethod
    def plan(
        self, graph: Graph, tensors: Mapping[str, TensorInfo], options: CompileOptions
    ) -> MemoryUse:
        """What `compile` would take, from the tensors' headers alone."""

    @abstractmethod
    def compile(
        self,
        graph: Graph,
        weights: WeightSource,
        options: CompileOptions,
        *,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
        packed: PackedCopies | None = None,
    ) -> Executable:
        """Packs the weights that the graph reads and makes it ready to run.

        A backend whose packed weights can be kept in a file asks ``packed`` for them first.
        Reports the stage ``"pack"`` in bytes of the model file. Raises `UnsupportedModelError`
        for a quantization type that the backend has no kernel for, `MemoryLimitError` when
        memory runs out, `CancelledError` when ``cancel`` was set.
        """
