"""Reads LoRA adapters in GGUF files, as llama.cpp's converter writes them.

Tensors are ``NAME.lora_a`` [rank, width] and ``NAME.lora_b`` [rows, rank] for a matrix ``NAME`` of
the model; ``adapter.lora.alpha`` over the rank is the scale. It does not know the model.
"""

from __future__ import annotations

import os

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.low_rank import AdapterFile, LowRankUpdate, checked_update

__all__ = ["ADAPTER_KEYS", "read_gguf_adapter"]

ADAPTER_KEYS = frozenset(
    {
        "adapter.type",
        "adapter.lora.alpha",
        "adapter.lora.task_name",
        "adapter.lora.prompt_prefix",
    }
)
"""Keys under ``adapter.`` that are understood; the last two are for people."""

_SUFFIXES = (".lora_a", ".lora_b")
_MAX_NAMED = 4


def read_gguf_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """The adapter in a GGUF file.

    Raises:
        ModelNotFoundError: there is no such file.
        FormatError: it is malformed, or not an adapter.
        UnsupportedModelError: it is an adapter of another kind.
        MemoryLimitError: it cannot be mapped.
    """
    with GGUFFile.open(path) as file:
        name = file.path.name
        m = Metadata(file.metadata, name=name)
        kind = m.str("general.type", default="model")
        if kind != "adapter":
            raise FormatError(
                f"{name} is not an adapter (general.type is {kind[:64]!r})",
                remedy="name a LoRA adapter, not a model",
            )
        adapter_type = m.str("adapter.type")
        if adapter_type != "lora":
            raise UnsupportedModelError(
                f"{name} is an adapter of the type {adapter_type[:64]!r} (adapter.type); "
                "only 'lora' is supported"
            )
        unknown = sorted(
            key for key in file.metadata if key.startswith("adapter.") and key not in ADAPTER_KEYS
        )
        if unknown:
            raise UnsupportedModelError(
                f"{name} asks for what is not supported: {', '.join(unknown[:_MAX_NAMED])}",
                remedy="it is no plain LoRA adapter; leaving that out would change the answers",
            )
        architecture = m.str("general.architecture")
        alpha = m.float("adapter.lora.alpha", minimum=0.0, maximum=1e6)
        updates = _read_updates(file, alpha)
        file.check_unchanged()
    return AdapterFile(name, architecture, updates)


def _read_updates(file: GGUFFile, alpha: float) -> dict[str, LowRankUpdate]:
    bases: dict[str, None] = {}
    for tensor in file.tensors:
        base, suffix = tensor[:-7], tensor[-7:]
        if suffix not in _SUFFIXES or not base:
            raise UnsupportedModelError(
                f"{file.path.name} has the tensor {tensor!r}, which is no factor of an update "
                "of low rank (NAME.lora_a, NAME.lora_b)",
                remedy="only plain LoRA adapters are supported",
            )
        bases[base] = None
    if not bases:
        raise FormatError(f"{file.path.name} has no tensors", remedy="get the file anew")
    updates: dict[str, LowRankUpdate] = {}
    for base in bases:
        missing = [base + suffix for suffix in _SUFFIXES if base + suffix not in file.tensors]
        if missing:
            raise FormatError(f"{file.path.name} has no tensor {missing[0]!r}, only its other half")
        a, b = (file.dequantize(base + suffix) for suffix in _SUFFIXES)
        # An alpha of zero says that there is none, in llama.cpp too.
        scale = alpha / b.shape[-1] if alpha and b.ndim and b.shape[-1] else 1.0
        updates[base] = checked_update(a, b, scale, name=base)
    return updates
