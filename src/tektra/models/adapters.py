"""Fits an adapter to a model: which linears it changes, and that its factors have their shapes.

It knows graphs and tensor names; neither files nor devices.
"""

from __future__ import annotations

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.low_rank import AdapterFile, LowRankUpdate
from tektra.graph import Graph, ops
from tektra.models.base import DrawnModel

__all__ = ["fit_adapter"]

_EMBEDDING = "token_embd.weight"
_OUTPUT = "output.weight"
_REMEDY = "it was made for another model: use the model that it was trained on"


def fit_adapter(adapter: AdapterFile, drawn: DrawnModel) -> dict[str, LowRankUpdate]:
    """What the adapter adds to the linears of a model, by the names of their matrices.

    Raises:
        FormatError: it is for another architecture or another model.
        UnsupportedModelError: it changes what adapters cannot change here.
    """
    architecture = drawn.config.architecture
    if adapter.architecture not in (None, architecture):
        raise FormatError(
            f"{adapter.name} is an adapter for {str(adapter.architecture)[:64]!r} models, "
            f"and this is a {architecture!r} model",
            remedy=_REMEDY,
        )
    linears = _linears(drawn.graph)
    fitted: dict[str, LowRankUpdate] = {}
    for name, update in adapter.updates.items():
        target = _target(name, drawn.graph, linears, adapter.name)
        rows, width = drawn.graph.shape(target)
        if update.a.shape[1] != width or update.b.shape[0] != rows:
            raise FormatError(
                f"{adapter.name} changes {name!r} as if it were "
                f"({update.b.shape[0]}, {update.a.shape[1]}), but it is ({rows}, {width})",
                remedy=_REMEDY,
            )
        fitted[target] = update
    return fitted


def _linears(graph: Graph) -> set[str]:
    names = {name for op in graph.ops if isinstance(op, ops.Linear) for name in op.weights}
    return {name for name in names if len(graph.shape(name)) == 2}


def _target(name: str, graph: Graph, linears: set[str], adapter: str) -> str:
    if name == _EMBEDDING:
        # Also where it makes the logits: which of the two is meant cannot be told.
        raise UnsupportedModelError(
            f"{adapter} changes the token embeddings ({name}), which is not supported",
            remedy="train the adapter on linear layers only",
        )
    if name == _OUTPUT and not graph.has(_OUTPUT) and _EMBEDDING in linears:
        return _EMBEDDING  # tied: the table makes the logits
    if name in linears:
        return name
    if graph.has(name):
        raise UnsupportedModelError(
            f"{adapter} changes {name!r}, which is not a plain linear layer: adapters of experts, "
            "norms and biases are not supported",
            remedy="train the adapter on linear layers only",
        )
    raise FormatError(f"{adapter} changes {name!r}, which this model does not have", remedy=_REMEDY)
