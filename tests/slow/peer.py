"""llama.cpp, in the environment that `make bench-peers` makes: what it computes for a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text

from tektra.backends.base import Backend, CompileOptions
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

__all__ = ["divergence", "needs_peer", "ours", "theirs", "tokenized", "without_texts"]

_FOLDER = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
_PEER: Final = Path(__file__).parents[2] / "build" / "peers" / _FOLDER
_OPTIONS: Final = CompileOptions(max_rows=256, max_outputs=256, num_kv_blocks=8)

needs_peer = pytest.mark.skipif(not _PEER.exists(), reason="llama.cpp is not installed in build/")


def theirs(path: Path, tokens: Sequence[int], *adapter: str) -> NDArray[np.float32]:
    """float32 [T, vocab]: its logits after each token, keys and values as float32.

    ``adapter``: the path of a GGUF adapter and its scale.
    """
    given, out = path.with_suffix(".tokens.npy"), path.with_suffix(".logits.npy")
    np.save(given, np.asarray(tokens, np.int32))
    _run("llama_cpp_logits.py", str(path), str(given), str(out), *adapter)
    logits: NDArray[np.float32] = np.load(out)
    return logits


def tokenized(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Its tokens of texts, without those that stand round a text, special ones read as such."""
    given, out = path.with_suffix(".texts.json"), path.with_suffix(".ids.json")
    given.write_text(json.dumps(list(texts)))
    _run("llama_cpp_tokens.py", str(path), str(given), str(out))
    ids: list[list[int]] = json.loads(out.read_text())
    return ids


def ours(
    path: Path, tokens: Sequence[int], backend: Backend, *, context: int | None = None
) -> NDArray[np.float32]:
    """The same of this engine, whose caches round as the backend's do."""
    with GGUFFile.open(path) as file:
        graph = draw(file.metadata, file.tensors, context=context).graph
        executable = backend.compile(graph, file, _OPTIONS)
        try:
            return run_text(executable, list(tokens), range(len(tokens)))
        finally:
            executable.close()


def without_texts(metadata: Mapping[str, Any], vocab: int) -> dict[str, Any]:
    """Metadata with a vocabulary that llama.cpp takes without the texts of its tokens."""
    architecture = metadata["general.architecture"]
    own = {"tokenizer.ggml.model": "none", f"{architecture}.vocab_size": vocab}
    return {**metadata, **own}


def divergence(exact: NDArray[np.float32], out: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of the next token's distribution, in nats."""
    p, q = _log_softmax(exact), _log_softmax(out)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def _log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return result


def _run(worker: str, *arguments: str) -> None:
    command = [str(_PEER), str(Path(__file__).with_name(worker)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
