"""GGUF adapters in llama.cpp: the same files give the same logits there and here.

It shows that names, keys, layouts and scales are llama.cpp's. Needs the environment that
`make bench-peers` makes; skipped where it is not there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adapters.test_adapter_goldens import OPTIONS, Adapted
from tests.adapters.written import write_gguf_adapter
from tests.backends.steps import run_text
from tests.goldens.seeded_adapters import ADAPTERS
from tests.goldens.seeded_model import VARIANTS, gguf_metadata, gguf_weights, token_ids

from tektra.backends.reference import ReferenceBackend
from tektra.engine.adapter_files import read_adapter
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import write_gguf
from tektra.models.base import draw

ROOT = Path(__file__).parents[2]
FOLDER = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
PEER = ROOT / "build" / "peers" / FOLDER
WORKER = Path(__file__).with_name("llama_cpp_logits.py")
SAME = ("llama-all", "llama-attention", "llama-rslora", "llama-patterns", "qwen2-all")

pytestmark = pytest.mark.skipif(not PEER.exists(), reason="llama.cpp is not installed in build/")


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", SAME)
def test_same_logits(name: str, scale: float, tmp_path: Path) -> None:
    v = VARIANTS[ADAPTERS[name].base]
    model, tokens, out = (tmp_path / n for n in ("model.gguf", "tokens.npy", "logits.npy"))
    metadata = gguf_metadata(v) | {
        "tokenizer.ggml.model": "none",
        f"{v.architecture}.vocab_size": v.vocab,
    }
    tensors = [(n, a.shape, GGMLType.F32, a) for n, a in gguf_weights(v).items()]
    write_gguf(model, metadata, tensors)
    adapter = write_gguf_adapter(tmp_path, ADAPTERS[name])
    np.save(tokens, token_ids(v))
    command = [str(PEER), str(WORKER), str(model), str(tokens), str(out), str(adapter), str(scale)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    theirs = np.load(out)[list(v.rows)]
    with GGUFFile.open(model) as file:
        drawn = draw(file.metadata, file.tensors)
        executable = ReferenceBackend(kv_dtype="float32").compile(drawn.graph, file, OPTIONS)
    ids = [executable.add_adapter(read_adapter(adapter, drawn))]
    adapted: Any = Adapted(executable, ids, scale)
    ours = run_text(adapted, token_ids(v).tolist(), v.rows)
    executable.close()
    assert float(np.abs(ours - theirs).max() / np.abs(theirs).max()) < 1e-4
