"""Writes seeded adapters to files, in each form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.goldens.seeded_adapters import SeededAdapter, gguf_adapter
from tests.goldens.seeded_model import VARIANTS, checkpoint_weights

from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf

__all__ = ["write_gguf_adapter", "write_gguf_parts"]


def write_gguf_adapter(folder: Path, adapter: SeededAdapter) -> Path:
    """As llama.cpp's converter writes it."""
    base = VARIANTS[adapter.base]
    return write_gguf_parts(
        folder / f"{adapter.name}.gguf", *gguf_adapter(adapter, base, checkpoint_weights(base))
    )


def write_gguf_parts(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]
) -> Path:
    """A GGUF file of metadata and float32 tensors."""
    typed = dict(metadata)
    if isinstance(typed.get("adapter.lora.alpha"), float):
        typed["adapter.lora.alpha"] = Typed(typed["adapter.lora.alpha"], "f32")
    write_gguf(path, typed, [(n, a.shape, GGMLType.F32, a) for n, a in tensors.items()])
    return path
