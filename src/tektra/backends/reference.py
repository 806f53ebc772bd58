"""The reference backend: NumPy, float32, no cleverness. The oracle of every other backend.

It is also what runs where there is no native core. Weights are held as float32, keys and values
in the paged cache as float16 or int8, like on every backend. Products go through BLAS, which may
order a sum by the shape of its operands: results agree to rounding over batches, not to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import (
    KV_BLOCK_SIZE,
    Backend,
    CompileOptions,
    Executable,
    KvGeometry,
    MemoryUse,
    PackedCopies,
    Step,
    WeightSource,
    kv_geometry,
)
from tektra.backends.reference_kv import KvCache, kv_bytes_per_token
from tektra.backends.reference_ops import KERNELS, SCORE_ELEMENTS, State
from tektra.backends.step_check import check_adapters, check_step, check_update, table_rows
from tektra.errors import BackendError, FormatError, MemoryLimitError
from tektra.formats.low_rank import LowRankUpdate
from tektra.formats.quants import dequantize
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph, OutputName, RopeSpec, RowSpace, Value, ops
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent, ignore_progress

__all__ = ["ReferenceBackend", "ReferenceExecutable"]

KvDtype = Literal["float16", "float32"]
_ITEM: Final = 4


class ReferenceBackend(Backend):
    """Computes in NumPy.

    Args:
        kv_dtype: what keys and values are kept as where `CompileOptions.kv_type` is ``"f16"``.
            float16 is what the other backends have; float32 is for comparing with
            implementations that do not round them.
    """

    name = "reference"

    def __init__(self, *, kv_dtype: KvDtype = "float16") -> None:
        self.kv_dtype: np.dtype[Any] = np.dtype(kv_dtype)

    def plan(
        self, graph: Graph, tensors: Mapping[str, TensorInfo], options: CompileOptions
    ) -> MemoryUse:
        weights = sum(math.prod(graph.shape(name)) for name in graph.weight_names) * _ITEM
        per_token = sum(
            kv_bytes_per_token(g, options.kv_type, self.kv_dtype) for g in kv_geometry(graph)
        )
        return MemoryUse(
            {
                "weights": weights,
                "kv_cache": per_token * KV_BLOCK_SIZE * options.num_kv_blocks,
                "activations": _activation_bytes(graph, options),
            }
        )

    def compile(
        self,
        graph: Graph,
        weights: WeightSource,
        options: CompileOptions,
        *,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
        packed: PackedCopies | None = None,  # weights are decoded: there is nothing to keep
    ) -> ReferenceExecutable:
        memory = self.plan(graph, weights.tensors, options)
        try:
            loaded = _load(graph, weights, progress, cancel)
            caches = {
                layer: KvCache(options.num_kv_blocks, g, options.kv_type, self.kv_dtype)
                for layer, g in _geometry(graph).items()
            }
        except MemoryError as error:
            raise MemoryLimitError(
                f"the model takes {memory.total} bytes, and there is not as much memory",
                remedy="use a smaller model or a smaller context, or the native backend",
            ) from error
        return ReferenceExecutable(graph, options, loaded, caches, memory)


class ReferenceExecutable(Executable):
    """A model in NumPy. Made by `ReferenceBackend.compile`.

    Attributes:
        observe: is told what goes into each matrix while steps run: the matrix' name, the expert (0
            where there are none), and float32 [rows, width].
    """

    def __init__(
        self,
        graph: Graph,
        options: CompileOptions,
        weights: Mapping[str, NDArray[np.float32]],
        caches: Mapping[int, KvCache],
        memory: MemoryUse,
    ) -> None:
        self.options = options
        self._graph = graph
        self._memory = memory
        self._weights: Mapping[str, NDArray[np.float32]] | None = weights
        self._caches = caches
        self._adapters: dict[int, Mapping[str, LowRankUpdate]] = {}
        self._num_adapters = 0
        self.observe: Callable[[str, int, NDArray[np.float32]], None] | None = None
        self._linears = {
            name: graph.shape(name)
            for op in graph.ops
            if isinstance(op, ops.Linear)
            for name in op.weights
        }
        self._frequencies = _frequencies(graph, weights)
        self._table_rows = table_rows(graph)
        self._programs = {
            output: _with_last_uses(_needed(graph.ops, value), value)
            for output, value in graph.outputs.items()
        }

    def run(self, step: Step, output: OutputName = "logits") -> NDArray[np.float32]:
        if self._weights is None:
            raise BackendError("the executable was closed")
        program = self._programs.get(output)
        if program is None:
            raise BackendError(f"the graph has no output {output!r}")
        check_step(step, self.options, self._table_rows)
        check_adapters(step, self._adapters)
        state = State(step, self._weights, self._caches, self._frequencies, self._adapters)
        state.observe = self.observe
        for op, dead in program:
            KERNELS[type(op)](op, state)
            for value in dead:
                del state.values[value]
        return np.ascontiguousarray(state.values[self._graph.outputs[output].id])

    def add_adapter(self, updates: Mapping[str, LowRankUpdate]) -> int:
        if self._weights is None:
            raise BackendError("the executable was closed")
        for name, update in updates.items():
            check_update(name, update, self._linears)
        self._adapters[self._num_adapters] = dict(updates)
        self._num_adapters += 1
        return self._num_adapters - 1

    def remove_adapter(self, adapter: int) -> None:
        if self._adapters.pop(adapter, None) is None:
            raise BackendError(f"there is no adapter {adapter}")

    @property
    def memory(self) -> MemoryUse:
        if self._weights is None:
            return MemoryUse()
        adapters = sum(
            u.a.nbytes + u.b.nbytes for updates in self._adapters.values() for u in updates.values()
        )
        if not adapters:
            return self._memory
        return MemoryUse({**self._memory.parts, "adapters": adapters})

    def close(self) -> None:
        self._weights = None
        self._caches = {}
        self._adapters = {}


def _load(
    graph: Graph,
    source: WeightSource,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> dict[str, NDArray[np.float32]]:
    names = graph.weight_names
    total = sum(source.tensors[name].nbytes for name in names)
    done = 0
    weights: dict[str, NDArray[np.float32]] = {}
    for name in names:
        if cancel is not None:
            cancel.check()
        info = source.tensors[name]
        progress(ProgressEvent("pack", name, done, total, "bytes"))
        weights[name] = dequantize(source.tensor_bytes(name), info.type, info.shape, name=name)
        done += info.nbytes
    progress(ProgressEvent("pack", "", total, total, "bytes"))
    return weights


def _frequencies(
    graph: Graph, weights: Mapping[str, NDArray[np.float32]]
) -> dict[RopeSpec, NDArray[np.float64]]:
    """Radians per position for every kind of rotary position in the graph."""
    tables: dict[RopeSpec, NDArray[np.float64]] = {}
    for spec in {op.spec for op in graph.ops if isinstance(op, ops.Rope)}:
        factors = None if spec.freq_factors is None else weights[spec.freq_factors]
        if factors is not None and not (np.isfinite(factors) & (factors > 0)).all():
            raise FormatError(f"tensor {spec.freq_factors!r} has factors that are not positive")
        tables[spec] = spec.inverse_frequencies(factors)
    return tables


def _needed(graph_ops: Sequence[ops.Op], output: Value) -> list[ops.Op]:
    """The ops that an output depends on, and those that fill the cache for later steps."""
    wanted = {output.id}
    needed: list[ops.Op] = []
    for op in reversed(graph_ops):
        if isinstance(op, ops.Attention) or any(value.id in wanted for value in _written(op)):
            needed.append(op)
            wanted.update(value.id for value in _read(op))
    return needed[::-1]


def _with_last_uses(
    needed: Sequence[ops.Op], output: Value
) -> list[tuple[ops.Op, tuple[int, ...]]]:
    """Each op with the ids of the values that nothing reads after it."""
    seen = {output.id}
    program: list[tuple[ops.Op, tuple[int, ...]]] = []
    for op in reversed(needed):
        values = {value.id for value in (*_read(op), *_written(op))}
        program.append((op, tuple(values - seen)))
        seen |= values
    return program[::-1]


def _read(op: ops.Op) -> list[Value]:
    """The values that an op reads."""
    fields = ("x", "q", "k", "v", "logits", "gate", "up", "a", "b")
    return [getattr(op, name) for name in fields if hasattr(op, name)]


def _written(op: ops.Op) -> list[Value]:
    """The values that an op makes."""
    return list(op.outs) if isinstance(op, ops.Linear | ops.Split) else [op.out]


def _geometry(graph: Graph) -> dict[int, KvGeometry]:
    layers = sorted({op.layer for op in graph.ops if isinstance(op, ops.Attention)})
    return dict(zip(layers, kv_geometry(graph), strict=True))


def _activation_bytes(graph: Graph, options: CompileOptions) -> int:
    """The most that values and temporaries take at any op of a full step."""
    rows = {RowSpace.TOKENS: options.max_rows, RowSpace.OUTPUTS: options.max_outputs}
    longest = options.num_kv_blocks * KV_BLOCK_SIZE
    peak = 0
    for output in graph.outputs.values():
        live: dict[int, int] = {}
        for op, dead in _with_last_uses(_needed(graph.ops, output), output):
            live.update({v.id: rows[v.rows] * v.width * _ITEM for v in _written(op)})
            # No op makes more than a few copies of what it reads, in float64 at most.
            scratch = 4 * sum(rows[v.rows] * v.width * _ITEM for v in _read(op))
            if isinstance(op, ops.Attention):
                spec = op.spec
                per_token = spec.num_kv_heads * (spec.head_dim + spec.value_dim)
                scores = max(
                    SCORE_ELEMENTS, spec.num_heads * longest
                )  # a piece has at least one row
                scratch += (2 * longest * per_token + 4 * scores) * _ITEM
            if isinstance(op, ops.Moe):
                inner = graph.shape(op.gate_weight)[1]
                # answers of all experts; one expert may get every row
                scratch += rows[op.x.rows] * (op.spec.top_k * op.x.width + 4 * inner) * _ITEM
            peak = max(peak, sum(live.values()) + scratch)
            for value in dead:
                live.pop(value, None)
    return peak
