"""Small models of every architecture in llama.cpp: the same files, the same logits there and here.

It shows that names, keys, layouts and what absent keys mean are llama.cpp's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.models.small_models import MODELS, write_floats
from tests.slow.peer import divergence, needs_peer, ours, theirs, without_texts

from tektra.backends.cpu import CpuBackend
from tektra.backends.reference import ReferenceBackend
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.quants import quantize

pytestmark = needs_peer

OTHERWISE = {
    # It has no window for these: phi3's is left out on purpose, the others' keys are not read.
    "phi3-window": "the window",
    "qwen3-window": "the window",
    "mistral-window": "the window",
    "mixtral-window": "the window",
    # It takes the long factors for any context of more than was trained with.
    "phi3-longrope-short": "the factors",
    # Options of a configuration that GGUF has no key for; the tests of Tektra give it one.
    "qwen2moe-normalized": "the weights of experts",
    "qwen3moe-unnormalized": "the weights of experts",
    "olmoe-normalized": "the weights of experts",
    # It reads YaRN's betas and magnitude for a few architectures only.
    "llama-yarn-tuned": "the magnitude",
    # It rounds the blend of YaRN to whole pairs, which OpenAI's models do not.
    "gpt-oss": "the blend",
    "gpt-oss-mxfp4": "the blend",
    "gpt-oss-types": "the blend",
}
"""Models that llama.cpp loads and computes in another way, and what."""

REFUSED = (
    # biases
    "gemma-other",
    "gemma2-other",
    "gemma3-other",
    "qwen3-bias",
    "smollm3-bias",
    "olmo2-bias-tied",
    # layers without experts among others
    "qwen2moe-dense-layer",
    "qwen2moe-every-second",
    "qwen3moe-tied",
)
"""What it has no place for in these architectures."""

GELU_TABLE = 1e-3
"""Of the largest logit: gemma's activation is a table of float16 numbers in llama.cpp."""
QUANTIZED = (
    "llama-gqa2",
    "qwen2-mha",
    "gemma3-tied",
    "qwen3-mha",
    "granite-plain",
    "mixtral",
    "mixtral-tied",
    "gpt-oss-truncated",
)
SAME = [name for name in MODELS if name not in OTHERWISE and name not in REFUSED]
EXACT = ReferenceBackend(kv_dtype="float32")


def write(name: str, path: Path, matrices: GGMLType) -> list[int]:
    """The model's file, whose vocabulary has no texts; returns the tokens of its text."""
    model = MODELS[name]
    weights = model.family.gguf_weights(model.variant)
    metadata = without_texts(model.metadata, len(weights["token_embd.weight"]))
    if matrices is GGMLType.F32:
        write_floats(path, metadata, weights)
    else:
        tensors = []
        for tensor, array in weights.items():
            is_matrix = array.ndim >= 2 and "inp" not in tensor and not tensor.endswith(".bias")
            kind = matrices if is_matrix else GGMLType.F32
            data = quantize(array, kind) if is_matrix else array
            tensors.append((tensor, array.shape, kind, data))
        write_gguf(path, metadata, tensors)
    return [int(t) for t in model.family.token_ids(model.variant)]


@pytest.mark.parametrize("name", SAME)
def test_float_weights(name: str, tmp_path: Path) -> None:
    """llama.cpp rounds nothing here but the exponentials of its activations and softmax."""
    path = tmp_path / "model.gguf"
    tokens = write(name, path, GGMLType.F32)
    expected = theirs(path, tokens)
    out = ours(path, tokens, EXACT, context=len(tokens))
    error = float(np.abs(out - expected).max() / np.abs(expected).max())
    print(f"{name}: {error:.1e}")
    assert error < (GELU_TABLE if name.startswith("gemma") else 1e-4)


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights(name: str, tmp_path: Path) -> None:
    """Both round activations to int8, each in its own way: neither may be further off than twice
    the other from what float activations give."""
    path = tmp_path / "model.gguf"
    tokens = write(name, path, GGMLType.Q8_0)
    exact = ours(path, tokens, EXACT)
    mine = divergence(exact, ours(path, tokens, CpuBackend()))
    other = divergence(exact, theirs(path, tokens))
    print(f"{name}: {mine:.3g} here, {other:.3g} there")
    assert mine < 2 * other
