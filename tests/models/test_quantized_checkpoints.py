"""Logits of quantized checkpoints beside those of the float weights that they stand for.

The float checkpoints of the same variants are held against transformers in `test_goldens`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.fixtures.checkpoint_files import Tensor, as_bf16, write_checkpoint
from tests.goldens.seeded_model import VARIANTS, Variant, checkpoint_config, checkpoint_weights
from tests.goldens.seeded_model import token_ids as text_of

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.engine.model_files import open_model
from tektra.models.base import draw

OPTIONS = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)
GROUP = 32
AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
NAMES = ("llama-gqa2", "llama-odd", "qwen2-gqa-tied")
# int8 activations of the native core, as for GGUF's Q4_0 (tests/backends/tolerances.py).
TOLERANCES = {"reference": 1e-5, "cpu": 3e-2}


def words(values: NDArray[Any], order: NDArray[Any] | None = None) -> NDArray[np.int32]:
    """[rows, columns] of 4 bits -> int32 [rows, columns / 8]."""
    eights = values.astype(np.uint32).reshape(len(values), -1, 8)
    if order is not None:
        eights = eights[..., order]
    shifted = eights << np.arange(0, 32, 4, dtype=np.uint32)
    packed: NDArray[np.uint32] = np.bitwise_or.reduce(shifted, axis=-1)
    return packed.view(np.int32)


def quantized(
    weights: NDArray[np.float32], layout: str
) -> tuple[dict[str, Tensor], NDArray[np.float32]]:
    """The parts of a matrix that was rounded to 4 bits, and the weights that they stand for."""
    groups = weights.reshape(len(weights), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 1, 15).astype(int)
    q = np.clip(np.round(groups / scales[..., None]) + zeros[..., None], 0, 15).astype(int)
    exact = ((q - zeros[..., None]) * scales[..., None].astype(np.float32)).reshape(weights.shape)
    q = q.reshape(weights.shape)
    parts: dict[str, Tensor] = {"scales": np.ascontiguousarray(scales.T)}
    if layout == "awq":
        parts["qweight"] = words(q.T, AWQ_ORDER)
        parts["qzeros"] = words(zeros.T, AWQ_ORDER)
    else:
        parts["qweight"] = np.ascontiguousarray(words(q).T)
        parts["qzeros"] = words(zeros.T - 1)
        parts["g_idx"] = (np.arange(weights.shape[1]) // GROUP).astype(np.int32)
    return parts, exact.astype(np.float32)


def logits(folder: Path, v: Variant, backend: Backend) -> NDArray[np.float32]:
    with open_model(folder) as file:
        executable = backend.compile(draw(file.metadata, file.tensors).graph, file, OPTIONS)
        try:
            return run_text(executable, text_of(v).tolist(), v.rows)
        finally:
            executable.close()


def test_bytes_are_as_far_as_they_should_be() -> None:
    weights = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    _, exact = quantized(weights, "gptq")
    assert 0.01 < np.abs(exact - weights).max() < 0.5


@pytest.mark.parametrize("layout", ["gptq", "awq", "fp8"])
@pytest.mark.parametrize("name", NAMES)
def test_logits(name: str, layout: str, backend: Backend, tmp_path: Path) -> None:
    v = VARIANTS[name]
    floats: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    for tensor, array in checkpoint_weights(v).items():
        stem = tensor.removesuffix(".weight")
        if "_proj.weight" not in tensor or array.shape[1] % GROUP or array.shape[0] % 8:
            # Others keep their type; one file may have several.
            stored[tensor] = floats[tensor] = as_bf16(array) if array.ndim == 2 else array
        elif layout == "fp8":
            codes = np.random.default_rng(len(stored)).integers(0, 0x50, array.shape)
            signs = (array < 0).astype(np.uint8) << 7
            codes = (codes.astype(np.uint8) | signs).astype(np.uint8)
            scale = np.array([2.0**-6], np.float32)
            stored |= {tensor: ("F8_E4M3", codes), f"{stem}.weight_scale": scale}
            exponent, mantissa = (codes >> 3) & 15, (codes & 7) / 8.0
            value = np.where(exponent, (1 + mantissa) * 2.0 ** (exponent - 7.0), mantissa / 64)
            floats[tensor] = (np.where(signs, -value, value) * scale).astype(np.float32)
        else:
            parts, floats[tensor] = quantized(array, layout)
            stored |= {f"{stem}.{part}": content for part, content in parts.items()}
    config = checkpoint_config(v)
    quantization: dict[str, Any] = {"quant_method": layout}
    if layout != "fp8":
        quantization |= {"bits": 4, "group_size": GROUP}
    folder = write_checkpoint(
        tmp_path / "q", config | {"quantization_config": quantization}, stored, shards=2
    )
    expected = logits(write_checkpoint(tmp_path / "f", config, floats), v, ReferenceBackend())
    found = logits(folder, v, backend)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert error < TOLERANCES[backend.name]
