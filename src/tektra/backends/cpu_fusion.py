"""Which neighbouring ops of a graph the native core does at once: from who reads what.

It knows ops and weight types; what becomes of them is `cpu_lowering`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tektra.formats.ggml_types import GGMLType
from tektra.graph import Graph, Value, ops

__all__ = ["quantized_only", "residual_additions"]


def quantized_only(
    graph: Graph, types: Mapping[str, GGMLType], reads_quantized: Callable[[GGMLType], bool]
) -> set[int]:
    """Ids of the values that nothing but linears of quantized weights reads."""
    found: set[int] = set()
    others = {value.id for value in graph.outputs.values()}
    for op in graph.ops:
        quantized = isinstance(op, ops.Linear) and all(
            reads_quantized(types[weight]) for weight in op.weights
        )
        (found if quantized else others).update(value.id for value in _inputs(op))
    return found - others


def residual_additions(graph: Graph) -> dict[int, ops.Add]:
    """Additions that a linear can make while it writes: by the value id of the linear's output.

    The linear must have one output, read by the addition alone, and the other summand must be
    there before the linear runs.
    """
    uses: dict[int, int] = {}
    made_at: dict[int, int] = {}
    linears: dict[int, int] = {}
    for at, op in enumerate(graph.ops):
        for value in _inputs(op):
            uses[value.id] = uses.get(value.id, 0) + 1
        for value in _outputs(op):
            made_at[value.id] = at
        if isinstance(op, ops.Linear) and len(op.outs) == 1:
            linears[op.outs[0].id] = at
    for value in graph.outputs.values():
        uses[value.id] = uses.get(value.id, 0) + 1
    found: dict[int, ops.Add] = {}
    for op in graph.ops:
        if not isinstance(op, ops.Add):
            continue
        for mine, other in ((op.b, op.a), (op.a, op.b)):
            linear_at = linears.get(mine.id)
            if linear_at is None or uses[mine.id] != 1 or other.id == mine.id:
                continue
            if made_at[other.id] < linear_at and other.id not in found:
                found[mine.id] = op
                break
    return found


def _inputs(op: ops.Op) -> list[Value]:
    """Values that an op reads."""
    names = ("x", "q", "k", "v", "logits", "gate", "up", "a", "b")
    return [getattr(op, name) for name in names if hasattr(op, name)]


def _outputs(op: ops.Op) -> list[Value]:
    """Values that an op makes."""
    return list(op.outs) if isinstance(op, ops.Linear | ops.Split) else [op.out]
