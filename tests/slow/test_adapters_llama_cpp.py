"""GGUF adapters in llama.cpp: the same files give the same logits there and here.

It shows that names, keys, layouts and scales are llama.cpp's. Needs the environment that
`make bench-peers` makes; skipped where it is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adapters.test_adapter_goldens import OPTIONS, Adapted
from tests.adapters.written import write_gguf_adapter
from tests.backends.steps import run_text
from tests.goldens.seeded_adapters import ADAPTERS
from tests.goldens.seeded_model import VARIANTS, gguf_metadata, gguf_weights, token_ids
from tests.models.small_models import write_floats
from tests.slow.peer import needs_peer, theirs, without_texts

from tektra.backends.reference import ReferenceBackend
from tektra.engine.adapter_files import read_adapter
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

SAME = ("llama-all", "llama-attention", "llama-rslora", "llama-patterns", "qwen2-all")

pytestmark = needs_peer


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", SAME)
def test_same_logits(name: str, scale: float, tmp_path: Path) -> None:
    v = VARIANTS[ADAPTERS[name].base]
    model = tmp_path / "model.gguf"
    write_floats(model, without_texts(gguf_metadata(v), v.vocab), gguf_weights(v))
    adapter = write_gguf_adapter(tmp_path, ADAPTERS[name])
    text = token_ids(v).tolist()
    expected = theirs(model, text, str(adapter), str(scale))[list(v.rows)]
    with GGUFFile.open(model) as file:
        drawn = draw(file.metadata, file.tensors)
        executable = ReferenceBackend(kv_dtype="float32").compile(drawn.graph, file, OPTIONS)
    ids = [executable.add_adapter(read_adapter(adapter, drawn))]
    adapted: Any = Adapted(executable, ids, scale)
    ours = run_text(adapted, text, v.rows)
    executable.close()
    assert float(np.abs(ours - expected).max() / np.abs(expected).max()) < 1e-4
