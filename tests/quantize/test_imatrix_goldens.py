"""What goes into each matrix and each expert, beside what transformers shows by hooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.small_models import MODELS, write_floats

from tektra.backends.base import CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.engine.model_files import open_model
from tektra.models.base import draw
from tektra.quantize.collect import observed_step, sums_of

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "imatrix.npz"
OPTIONS = CompileOptions(max_rows=256, max_outputs=256, num_kv_blocks=8)
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}


@pytest.mark.parametrize("name", ["llama-gqa2", "gemma3-tied", "mixtral"])
def test_sums_of_squares(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    path = write_floats(
        tmp_path / "m.gguf", model.metadata, model.family.gguf_weights(model.variant)
    )
    tokens = [int(t) for t in model.family.token_ids(model.variant)]
    with open_model(path) as file:
        drawn = draw(file.metadata, file.tensors)
        executable = ReferenceBackend(kv_dtype="float32").compile(drawn.graph, file, OPTIONS)
        sums = sums_of(file.tensors)
        executable.observe = sums.add
        executable.run(observed_step(tokens), "hidden")
        executable.close()
    entries = sums.entries()
    compared = set()
    for part, golden in goldens(name).items():
        layer, module = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", part).groups()  # type: ignore[union-attr]
        if module in PARTS:
            tensor = f"blk.{layer}.{PARTS[module]}.weight"
            np.testing.assert_allclose(entries[tensor].sums[0], golden, rtol=2e-4)
            assert entries[tensor].counts.tolist() == [len(tokens)]
            compared.add(tensor)
        elif module == "mlp.experts counts":
            for expert in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
                assert entries[f"blk.{layer}.{expert}.weight"].counts.tolist() == golden.tolist()
        elif module in ("mlp.experts in", "mlp.experts inner"):
            inner = module.endswith("inner")
            for expert in ("ffn_down_exps",) if inner else ("ffn_gate_exps", "ffn_up_exps"):
                tensor = f"blk.{layer}.{expert}.weight"
                np.testing.assert_allclose(entries[tensor].sums, golden, rtol=2e-4)
                compared.add(tensor)
    assert compared == set(entries)


def goldens(name: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        stem = f"{name} model."
        return {k.removeprefix(f"{name} "): v for k, v in arrays.items() if k.startswith(stem)}
