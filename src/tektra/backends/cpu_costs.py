"""What each instruction of a lowered graph must move and compute in a step, from shapes alone.

The one place that knows it: profiles divide times by it. An operation is one multiply-add of a
product; what elementwise instructions compute is not counted, since they are bound by what they
move. It knows nothing of times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tektra.backends.base import CacheType, Step
from tektra.backends.cpu_lowering import Lowered
from tektra.backends.cpu_program import Instruction, OpCode, packed_shape
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import AttentionSpec

__all__ = ["CostModel", "OpCost"]

_HALF_BYTES = 2
_FLOAT_BYTES = 4
_SCALE_BYTES = 4  # of each head in an int8 cache, keys and values


@dataclass(frozen=True, slots=True)
class OpCost:
    """Of one instruction in one step, or a sum of such.

    Attributes:
        weights: bytes of weights read, as they are packed; each once, however many rows there are.
            Of experts as many as the rows can choose: which they choose is not known here.
        cache: bytes of keys and values read and written; each read once, however many rows see it.
        activations: bytes of rows read and written; what was just written may lie in a cache.
        int8: multiply-adds of bytes.
        floats: multiply-adds of floats.
    """

    weights: int = 0
    cache: int = 0
    activations: int = 0
    int8: int = 0
    floats: int = 0

    @property
    def num_bytes(self) -> int:
        return self.weights + self.cache + self.activations

    @property
    def operations(self) -> int:
        return self.int8 + self.floats

    def __add__(self, other: OpCost) -> OpCost:
        return OpCost(
            self.weights + other.weights,
            self.cache + other.cache,
            self.activations + other.activations,
            self.int8 + other.int8,
            self.floats + other.floats,
        )


class CostModel:
    """Costs of the instructions of one lowered graph.

    Args:
        lowered: the graph.
        tensors: of the model file.
        packed_bytes: of a whole matrix, in the core's layout.
        reads_quantized: whether a matrix multiplies int8 activations.
        kv_type: what keys and values are kept as.
    """

    def __init__(
        self,
        lowered: Lowered,
        tensors: Mapping[str, TensorInfo],
        packed_bytes: Callable[[TensorInfo], int],
        reads_quantized: Callable[[TensorInfo], bool],
        kv_type: CacheType = "f16",
    ) -> None:
        self._kv_type = kv_type
        self._lowered = lowered
        self._shapes = {name: packed_shape(tensors[name].shape) for name in lowered.matrices}
        self._bytes = {name: packed_bytes(tensors[name]) for name in lowered.matrices}
        self._int8 = {name: reads_quantized(tensors[name]) for name in lowered.matrices}
        self._vector_bytes = {name: 4 * tensors[name].num_elements for name in lowered.vectors}

    @property
    def labels(self) -> list[str]:
        """What each instruction works on: names of its matrices, or the layer of the cache."""
        return [_label(op, self._shapes) for op in self._lowered.instructions]

    def costs(self, step: Step) -> list[OpCost]:
        """Of each instruction, in order."""
        return [self._cost(op, step) for op in self._lowered.instructions]

    def _cost(self, op: Instruction, step: Step) -> OpCost:
        buffers = self._lowered.buffers
        activations = sum(
            buffers[b].stride * self._rows(b, step) for b in (*op.inputs, *op.outputs)
        )
        vectors = sum(self._vector_bytes.get(w, 0) for w in op.weights if isinstance(w, str))
        if op.code is OpCode.ATTENTION:
            cache, operations = _attention(op, step, self._kv_type)
            return OpCost(vectors, cache, activations, floats=operations)
        rows = self._rows(op.outputs[0], step)
        if op.code is OpCode.SELECT:  # the other rows of its input stay where they are
            return OpCost(activations=2 * buffers[op.outputs[0]].stride * rows)
        if op.code is OpCode.COLUMNS:
            return OpCost(activations=2 * buffers[op.outputs[0]].stride * rows)
        matrices = [w for w in op.weights if isinstance(w, str) and w in self._shapes]
        if op.code is OpCode.EMBED:
            table = matrices[0]
            return OpCost(self._bytes[table] // self._shapes[table][0] * rows, 0, activations)
        terms, used = 1, rows
        if op.code is OpCode.LINEAR:
            terms = op.ints[1]
        elif op.code is OpCode.MOE:  # each row uses some of the matrices that are stacked
            terms, used = op.ints[4], rows * op.ints[0]
        int8 = floats = weights = 0
        for name in matrices:
            height, width, count = self._shapes[name]
            if self._int8[name]:
                int8 += height * width * used * terms
            else:
                floats += height * width * used
            weights += self._bytes[name] * min(count, used) // count
        return OpCost(weights + vectors, 0, activations, int8, floats)

    def _rows(self, buffer: int, step: Step) -> int:
        outputs = self._lowered.buffers[buffer].outputs
        return len(step.output_rows) if outputs else step.num_rows


def _attention(op: Instruction, step: Step, kv_type: CacheType) -> tuple[int, int]:
    """Bytes of the cache, and multiply-adds: of queries and keys, of weights and values."""
    _, num_heads, num_kv_heads, head_dim, value_dim, window, causal, chunk, blocks = op.ints
    if kv_type == "int8":
        token_bytes = num_kv_heads * (head_dim + head_dim % 2 + value_dim + 2 * _SCALE_BYTES)
    else:
        element = _FLOAT_BYTES if kv_type == "f32" else _HALF_BYTES
        token_bytes = num_kv_heads * (head_dim + value_dim) * element
    spec = AttentionSpec(
        num_heads,
        num_kv_heads,
        head_dim,
        causal=bool(causal),
        window=window or None,
        chunk=chunk or None,
        block_diagonal=bool(blocks),
    )
    starts = np.zeros(0, np.int64) if step.block_starts is None else step.block_starts
    num_bytes = seen = 0
    for s in range(step.num_sequences):
        begin, end = int(step.row_starts[s]), int(step.row_starts[s + 1])
        cached = int(step.num_cached[s])
        at = np.arange(cached, cached + end - begin)
        own = None
        if blocks:
            block = np.searchsorted(starts, np.arange(begin, end), "right")
            own = np.stack([starts[block - 1], starts[block]]).astype(np.int64) - begin + cached
        first, last = spec.span(at, cached + end - begin, own)
        seen += int((last - first).sum())
        # what a sequence sees is connected: every row sees itself
        num_bytes += token_bytes * (int(last[-1] - first[0]) + end - begin)
    return num_bytes, seen * num_heads * (head_dim + value_dim)


def _label(op: Instruction, matrices: Mapping[str, object]) -> str:
    if op.code is OpCode.ATTENTION:
        return f"blk.{op.ints[0]}"
    names = [w for w in op.weights if isinstance(w, str)]
    used = [name for name in names if name in matrices] or names[:1]
    return " + ".join(name.removesuffix(".weight") for name in used)
