"""Small mixtures of experts in llama.cpp: the same files give the same logits there and here.

It shows that names, keys and layouts are llama.cpp's. Needs the environment that `make bench-peers`
makes; skipped where it is not there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.goldens.moe_model import gguf_metadata, gguf_weights, token_ids
from tests.goldens.variants_moe import MOE, MoeVariant

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.quants import quantize
from tektra.models.base import draw

ROOT = Path(__file__).parents[2]
FOLDER = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
PEER = ROOT / "build" / "peers" / FOLDER
WORKER = Path(__file__).with_name("llama_cpp_logits.py")
OPTIONS = CompileOptions(max_rows=256, max_outputs=256, num_kv_blocks=8)
SAME = (
    "mixtral",
    "mixtral-tied",
    "mixtral-all",
    "qwen2moe",
    "qwen3moe",
    "olmoe",
    "granitemoe",
    "granitemoe-shared",
    # llama.cpp has the blend of YaRN between whole pairs also where OpenAI has not
    "gpt-oss-truncated",
)
QUANTIZED = ("mixtral", "mixtral-tied", "gpt-oss-truncated")

pytestmark = pytest.mark.skipif(not PEER.exists(), reason="llama.cpp is not installed in build/")


def write(variant: MoeVariant, path: Path, matrices: GGMLType) -> None:
    """The variant's GGUF file, whose vocabulary has no texts."""
    metadata = gguf_metadata(variant) | {
        "tokenizer.ggml.model": "none",
        f"{variant.architecture}.vocab_size": variant["vocab_size"],
    }
    tensors = []
    for name, array in gguf_weights(variant).items():
        is_matrix = array.ndim >= 2 and "inp" not in name and not name.endswith(".bias")
        kind = matrices if is_matrix else GGMLType.F32
        data = array if kind is GGMLType.F32 else quantize(array, kind)
        tensors.append((name, array.shape, kind, data))
    write_gguf(path, metadata, tensors)


def ours(variant: MoeVariant, path: Path, backend: Backend) -> NDArray[np.float32]:
    with GGUFFile.open(path) as file:
        executable = backend.compile(draw(file.metadata, file.tensors).graph, file, OPTIONS)
        try:
            text = token_ids(variant).tolist()
            return run_text(executable, text, range(len(text)))
        finally:
            executable.close()


def theirs(variant: MoeVariant, path: Path) -> NDArray[np.float32]:
    tokens, out = path.with_suffix(".tokens.npy"), path.with_suffix(".logits.npy")
    np.save(tokens, token_ids(variant))
    command = [str(PEER), str(WORKER), str(path), str(tokens), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    logits: NDArray[np.float32] = np.load(out)
    return logits


@pytest.mark.parametrize("name", SAME)
def test_float_weights(name: str, tmp_path: Path) -> None:
    """llama.cpp rounds nothing here but the exponentials of its SiLU and softmax."""
    path = tmp_path / "model.gguf"
    write(MOE[name], path, GGMLType.F32)
    expected = theirs(MOE[name], path)
    out = ours(MOE[name], path, ReferenceBackend(kv_dtype="float32"))
    assert float(np.abs(out - expected).max() / np.abs(expected).max()) < 1e-4


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights(name: str, tmp_path: Path) -> None:
    """Both round activations to int8, each in its own way: neither may be further off than twice
    the other from what float activations give."""
    from tektra.backends.cpu import CpuBackend

    path = tmp_path / "model.gguf"
    write(MOE[name], path, GGMLType.Q8_0)
    exact = ours(MOE[name], path, ReferenceBackend(kv_dtype="float32"))
    mine = divergence(exact, ours(MOE[name], path, CpuBackend()))
    other = divergence(exact, theirs(MOE[name], path))
    assert mine < 2 * other


def divergence(exact: NDArray[np.float32], out: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of the next token's distribution, in nats."""

    def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = x.astype(np.float64)
        wide -= wide.max(axis=-1, keepdims=True)
        result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
        return result

    p, q = log_softmax(exact), log_softmax(out)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))
