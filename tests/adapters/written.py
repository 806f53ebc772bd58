"""Writes seeded adapters to files, in each form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from tests.goldens.seeded_adapters import SeededAdapter, gguf_adapter, peft_config, peft_weights
from tests.goldens.seeded_model import VARIANTS, checkpoint_weights

from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf

__all__ = ["write_gguf_adapter", "write_gguf_parts", "write_peft_adapter"]

CONFIGS = Path(__file__).parents[1] / "goldens" / "adapters"


def write_gguf_adapter(folder: Path, adapter: SeededAdapter) -> Path:
    """As llama.cpp's converter writes it."""
    base = VARIANTS[adapter.base]
    return write_gguf_parts(
        folder / f"{adapter.name}.gguf", *gguf_adapter(adapter, base, checkpoint_weights(base))
    )


def write_peft_adapter(folder: Path, adapter: SeededAdapter) -> Path:
    """As PEFT writes it: the config is PEFT's own, with the fields that the adapter has."""
    config = json.loads((CONFIGS / f"{adapter.name}.json").read_text())
    config |= peft_config(adapter)
    weights = peft_weights(adapter, checkpoint_weights(VARIANTS[adapter.base]))
    path = folder / adapter.name
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(weights, path / "adapter_model.safetensors")
    return path


def write_gguf_parts(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]
) -> Path:
    """A GGUF file of metadata and float32 tensors."""
    typed = dict(metadata)
    if isinstance(typed.get("adapter.lora.alpha"), float):
        typed["adapter.lora.alpha"] = Typed(typed["adapter.lora.alpha"], "f32")
    write_gguf(path, typed, [(n, a.shape, GGMLType.F32, a) for n, a in tensors.items()])
    return path
