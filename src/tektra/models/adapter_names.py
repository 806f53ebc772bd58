"""From transformers' names of an adapter's modules to GGUF's, as the checkpoint's weights go.

An update goes where its matrix goes: what is done to the rows of the matrix is done to those of its
second factor. It knows neither files nor devices.
"""

from __future__ import annotations

import numpy as np

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.adapter_peft import PeftAdapter
from tektra.formats.ggml_types import GGMLType
from tektra.formats.low_rank import AdapterFile, LowRankUpdate
from tektra.graph import Graph, ops
from tektra.models import architecture
from tektra.models.base import DrawnModel
from tektra.models.checkpoint_format import CheckpointFormat, FromRow, Heads, Part, To
from tektra.models.checkpoint_format import compiled as compiled_pattern
from tektra.models.checkpoint_format import match as match_pattern
from tektra.models.checkpoint_steps import apply_steps

__all__ = ["renamed"]


def renamed(adapter: PeftAdapter, drawn: DrawnModel) -> AdapterFile:
    """The adapter by GGUF's names and in its layout.

    Raises:
        FormatError: the architecture has no such module.
        UnsupportedModelError: a module is one of experts, or the architecture has no description
            of its checkpoints.
    """
    name = drawn.config.architecture
    format = getattr(architecture(name), "CHECKPOINT", None)
    if not isinstance(format, CheckpointFormat):
        raise UnsupportedModelError(
            f"adapters in PEFT's form are not supported for {name!r} models",
            remedy="convert the adapter to GGUF",
        )
    updates: dict[str, LowRankUpdate] = {}
    for module, update in adapter.updates.items():
        for to in _targets(module, format, adapter.name):
            b = _moved(update.b, to, drawn.graph, module, adapter.name)
            updates[to.name] = LowRankUpdate(update.a, b, update.scale)
    return AdapterFile(adapter.name, name, updates)


def _targets(module: str, format: CheckpointFormat, adapter: str) -> tuple[To, ...]:
    prefix = next((p for p in format.prefixes if module.startswith(p)), "")
    tensor = module.removeprefix(prefix) + ".weight"
    for pattern, target in format.tensors.items():
        found = match_pattern(compiled_pattern(pattern, suffix=True), tensor)
        if found is None:
            continue
        layer, expert, suffix = found
        if expert is not None:
            raise UnsupportedModelError(
                f"{adapter} changes the expert {module!r}; adapters of experts are not supported",
                remedy="train the adapter on the other linear layers",
            )
        tos = target if isinstance(target, tuple) else (target,)
        made = [To(t) if isinstance(t, str) else t for t in tos]
        return tuple(To(t.name.replace("{i}", layer.get("i", "")) + suffix, *t.steps) for t in made)
    raise FormatError(
        f"{adapter} changes {module[:200]!r}, which {format.architecture!r} models do not have",
        remedy="it was made for another model: use the model that it was trained on",
    )


def _moved(
    b: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    to: To,
    graph: Graph,
    module: str,
    adapter: str,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The second factor with its rows where those of the matrix are."""
    if not to.steps:
        return b
    if not all(isinstance(step, Heads | Part | FromRow) for step in to.steps):
        raise UnsupportedModelError(f"{adapter} changes {module!r}, which is not a plain linear")
    data = np.ascontiguousarray(b).reshape(-1).view(np.uint8)
    moved, shape, _ = apply_steps(
        to.steps, data, b.shape, GGMLType.F32, name=module, heads=lambda key: _heads(graph, key)
    )
    return np.ascontiguousarray(moved).view(np.float32).reshape(shape)


def _heads(graph: Graph, key: str) -> int:
    spec = next(op.spec for op in graph.ops if isinstance(op, ops.Attention))
    return spec.num_kv_heads if key.endswith("_kv") else spec.num_heads
