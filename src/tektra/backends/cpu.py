"""The native CPU backend: packs weights for the core and runs its programs.

The core (`tektra._native`) does the arithmetic; this file builds a program from a lowered graph
and turns the core's complaints into typed errors.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import (
    CACHE_TYPES,
    Backend,
    CompileOptions,
    Executable,
    MemoryUse,
    PackedCopies,
    Step,
    WeightSource,
    kv_geometry,
)
from tektra.backends.cpu_adapters import AdaptedLinears
from tektra.backends.cpu_costs import CostModel
from tektra.backends.cpu_lowering import Lowered, lower
from tektra.backends.cpu_program import OpCode, packed_shape, row_scratch_bytes
from tektra.errors import (
    BackendError,
    DeviceUnavailableError,
    MemoryLimitError,
    UnsupportedModelError,
)
from tektra.formats.low_rank import LowRankUpdate
from tektra.formats.packed import PackedMatrix
from tektra.formats.quants import dequantize
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph, OutputName, RopeSpec
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent, ignore_progress

__all__ = ["CpuBackend", "CpuExecutable", "native_core"]


def native_core() -> ModuleType | None:
    """The native core, or ``None`` where Tektra was installed without a compiler."""
    try:
        from tektra import _native
    except ImportError:
        return None
    return _native


class CpuBackend(Backend):
    """Runs on the processor through the native core.

    Args:
        isa: instruction set whose kernels are used; ``None`` for ``TEKTRA_ISA`` if that is set,
            else the best that this machine has.

    Raises:
        DeviceUnavailableError: there is no native core, or it or the machine lacks ``isa``.
    """

    name = "cpu"

    def __init__(self, *, isa: str | None = None) -> None:
        core = native_core()
        if core is None:
            raise DeviceUnavailableError(
                "the native core of Tektra is not installed",
                remedy="install Tektra again on a machine with a C++20 compiler, "
                "or use device='reference'",
            )
        self._core: Any = core
        self._last: tuple[Graph, Any, Lowered] | None = None
        try:
            self.isa: str = core.isa(isa or os.environ.get("TEKTRA_ISA", ""))
        except ValueError as error:
            raise DeviceUnavailableError(
                str(error), remedy=f"compiled are: {', '.join(core.compiled_isas())}"
            ) from error

    def plan(
        self, graph: Graph, tensors: Mapping[str, TensorInfo], options: CompileOptions
    ) -> MemoryUse:
        lowered = self._lower(graph, tensors, options)
        weights = 0
        for name in lowered.matrices:
            weights += self._packed_bytes(tensors[name])
        for name in lowered.vectors:
            weights += 4 * tensors[name].num_elements
        kv_type = CACHE_TYPES.index(options.kv_type)
        block_bytes = sum(
            self._core.kv_block_bytes(g.num_kv_heads, g.head_dim, g.value_dim, kv_type)
            for g in kv_geometry(graph)
        )
        rows = row_scratch_bytes(lowered.instructions, lowered.buffers, options.num_threads)
        scratch = partials = 0
        for op in lowered.instructions:
            if op.code is OpCode.ATTENTION:
                mine, shared = self._core.attention_bytes(
                    op.ints, options.num_threads, options.max_rows, options.num_kv_blocks
                )
                scratch, partials = max(scratch, mine), max(partials, shared)
        return MemoryUse(
            {
                "weights": weights,
                "kv_cache": block_bytes * options.num_kv_blocks,
                "activations": lowered.arena_bytes + rows + scratch + partials,
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
        packed: PackedCopies | None = None,
    ) -> CpuExecutable:
        lowered = self._lower(graph, weights.tensors, options)
        try:
            program = self._new_program(options)
            layout = self._core.packed_layout(self.isa)
            ids = _load_weights(
                program, lowered, weights, progress, cancel, layout, packed, self._packed_bytes
            )
            kv_type = CACHE_TYPES.index(options.kv_type)
            for layer in kv_geometry(graph):
                program.add_cache(layer.num_kv_heads, layer.head_dim, layer.value_dim, kv_type)
            for buffer in lowered.buffers:
                program.add_buffer(buffer.offset, buffer.stride, buffer.width, buffer.outputs)
            for op in lowered.instructions:
                operands = [-1 if w is None else ids[w] for w in op.weights]
                program.add_op(int(op.code), op.inputs, op.outputs, operands, op.ints, op.floats)
            program.finish(lowered.arena_bytes)
        except MemoryError as error:
            needed = self.plan(graph, weights.tensors, options).total
            raise MemoryLimitError(
                f"the model needs {needed / 2**20:.0f} MiB, which cannot be allocated",
                remedy="use a smaller context or a smaller model",
            ) from error
        except ValueError as error:
            raise BackendError(f"the native core refused the model: {error}") from error
        costs = CostModel(
            lowered,
            {name: weights.tensors[name] for name in graph.weight_names},
            self._packed_bytes,
            lambda info: bool(self._core.reads_quantized(self.isa, int(info.type))),
            options.kv_type,
        )
        linears = AdaptedLinears(
            lowered.instructions,
            {name: weights.tensors[name].shape for name in lowered.matrices},
            {
                name
                for name in lowered.matrices
                if self._core.reads_quantized(self.isa, int(weights.tensors[name].type))
            },
        )
        return CpuExecutable(program, lowered.outputs, options, costs, linears)

    def _packed_bytes(self, info: TensorInfo) -> int:
        shape = packed_shape(info.shape)
        num_bytes: int = self._core.packed_bytes(self.isa, int(info.type), *shape)
        return num_bytes

    def _new_program(self, options: CompileOptions) -> Any:
        try:
            return self._core.Program(
                self.isa,
                options.num_threads,
                options.max_rows,
                options.max_outputs,
                options.num_kv_blocks,
            )
        except RuntimeError as error:
            raise BackendError(
                f"{options.num_threads} threads cannot be started: {error}",
                remedy="ask for fewer threads",
            ) from error

    def _lower(
        self, graph: Graph, tensors: Mapping[str, TensorInfo], options: CompileOptions
    ) -> Lowered:
        types = {name: tensors[name].type for name in graph.weight_names}
        shapes = [tensors[name].shape for name in types]
        key = (types, shapes, options.max_rows, options.max_outputs)
        # A load asks for plans with several sizes of cache, which do not matter here.
        last = self._last
        if last is not None and last[0] is graph and last[1] == key:
            return last[2]
        lowered = lower(
            graph,
            types,
            options,
            lambda type_: bool(self._core.reads_quantized(self.isa, int(type_))),
        )
        for name in lowered.matrices:
            info = tensors[name]
            if not self._packed_bytes(info):
                raise UnsupportedModelError(
                    f"tensor {name!r} of {info.type.name} with shape {info.shape} has no kernel "
                    "on the CPU",
                    remedy="use a file of another quantization",
                )
        self._last = graph, key, lowered
        return lowered


def _load_weights(
    program: Any,
    lowered: Lowered,
    weights: WeightSource,
    progress: ProgressCallback,
    cancel: CancelToken | None,
    layout: str,
    copies: PackedCopies | None,
    packed_bytes: Callable[[TensorInfo], int],
) -> dict[str | RopeSpec, int]:
    """Packs every tensor, or takes it as it was packed before.

    Returns the program's number of each name and of each rope spec.
    """
    infos = [weights.tensors[name] for name in lowered.matrices]
    matrices = {}
    for info in infos:
        rows, width = math.prod(info.shape[:-1]), info.shape[-1]
        matrices[info.name] = PackedMatrix(
            info.name, info.type.name, rows, width, packed_bytes(info)
        )
    found = None if copies is None else copies.find(layout, list(matrices.values()))
    adopted = found is not None and found.large_pages
    if not adopted:
        program.reserve_matrices(sum(matrix.num_bytes for matrix in matrices.values()))
    names = [*lowered.matrices, *lowered.vectors]
    total = sum(weights.tensors[name].nbytes for name in names)
    ids: dict[str | RopeSpec, int] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    done = 0
    for name in names:
        if cancel is not None:
            cancel.check()
        info = weights.tensors[name]
        if name in matrices and found is not None and adopted:
            rows, width, count = packed_shape(info.shape)
            adopt = found.matrices[name]
            ids[name] = program.adopt_matrix(int(info.type), rows, width, adopt, count)
        elif name in matrices:
            ids[name] = program.add_matrix(int(info.type), *packed_shape(info.shape))
            if found is None:
                program.pack_matrix(ids[name], weights.tensor_bytes(name))
            else:
                program.copy_matrix(ids[name], found.matrices[name])
        else:
            data = weights.tensor_bytes(name)
            vectors[name] = np.ascontiguousarray(dequantize(data, info.type, info.shape))
            ids[name] = program.add_vector(vectors[name].reshape(-1))
        done += info.nbytes
        if found is None or done == total:  # hundreds of events would take longer than the work
            progress(ProgressEvent("pack", name, done, total, "bytes"))
    if copies is not None and found is None:
        packed = {name: program.packed_matrix(ids[name]) for name in matrices}
        copies.offer(layout, list(matrices.values()), packed)
    for op in lowered.instructions:
        for weight in op.weights:
            if isinstance(weight, RopeSpec):
                factors = weight.freq_factors
                frequencies = weight.inverse_frequencies(
                    None if factors is None else vectors[factors]
                )
                ids[weight] = program.add_frequencies(frequencies, weight.magnitude)
    return ids


class CpuExecutable(Executable):
    """A program of the native core.

    Attributes:
        costs: what its ops move and compute, to judge `profile` by.
        isa: the instruction set of its kernels.
    """

    def __init__(
        self,
        program: Any,
        outputs: Mapping[OutputName, tuple[int, int]],
        options: CompileOptions,
        costs: CostModel,
        linears: AdaptedLinears,
    ) -> None:
        self.options = options
        self.costs = costs
        self._linears = linears
        self.isa: str = program.isa
        self._program = program
        self._outputs = outputs
        self._memory = MemoryUse(
            {
                "weights": program.weight_bytes,
                "kv_cache": program.cache_bytes,
                "activations": program.activation_bytes,
            }
        )

    def run(self, step: Step, output: OutputName = "logits") -> NDArray[np.float32]:
        if self._program is None:
            raise BackendError("the model is closed")
        if output not in self._outputs:
            raise BackendError(f"the model has no output {output!r}")
        buffer, num_ops = self._outputs[output]
        try:
            rows: NDArray[np.float32] = self._program.run(
                step.token_ids,
                step.positions,
                step.row_starts,
                step.num_cached,
                step.block_tables,
                step.output_rows,
                num_ops,
                buffer,
                segments=step.segments,
                adapters=step.adapters,
                adapter_scales=step.adapter_scales,
                block_starts=step.block_starts,
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise BackendError(str(error)) from error
        except MemoryError as error:
            raise MemoryLimitError(
                f"there is no memory for a step of {step.num_rows} rows",
                remedy="load the model with fewer rows or a smaller context, or end other programs",
            ) from error
        return rows

    def set_profiling(self, on: bool) -> None:
        """Whether runs measure how long their ops take; what was measured before is forgotten."""
        if self._program is None:
            raise BackendError("the model is closed")
        self._program.set_profiling(on)

    @property
    def profile(self) -> list[tuple[str, float, int]]:
        """(kind, seconds, calls) of each op, in order, over the runs since `set_profiling`."""
        return [] if self._program is None else self._program.profile

    def add_adapter(self, updates: Mapping[str, LowRankUpdate]) -> int:
        if self._program is None:
            raise BackendError("the model is closed")
        return self._linears.add(self._program, updates)

    def remove_adapter(self, adapter: int) -> None:
        if self._program is None:
            raise BackendError("the model is closed")
        try:
            self._program.remove_adapter(adapter)
        except (ValueError, RuntimeError) as error:
            raise BackendError(str(error)) from error

    @property
    def memory(self) -> MemoryUse:
        if self._program is None:
            return MemoryUse({})
        adapters = self._program.adapter_bytes
        if not adapters:
            return self._memory
        return MemoryUse({**self._memory.parts, "adapters": adapters})

    def close(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            # A step in progress on another thread: the memory is freed at its end.
            with contextlib.suppress(RuntimeError):
                program.release()
