"""Makes tests/goldens/models/imatrix.npz: what goes into the matrices of small models.

Sums of squares of the inputs of each linear module of transformers while it reads the text of a
variant; of a mixture of experts what the rows that chose an expert bring it, and how many there
are. Run it in an environment of its own with torch (CPU), transformers, safetensors and NumPy:

    python tests/goldens/make_imatrix_golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens import dense_model, moe_model, seeded_model
from tests.goldens.keep import keep
from tests.goldens.variants_moe import MOE

OUT = Path(__file__).parent / "models" / "imatrix.npz"


def observed(
    config: dict[str, Any], weights: dict[str, Any], ids: NDArray[np.int32]
) -> dict[str, NDArray[np.float64]]:
    """Inputs [rows, width] of each module that multiplies by a matrix, by its name."""
    seen: dict[str, NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def note(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().double().numpy()
            seen[name] = rows.reshape(-1, rows.shape[-1])

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or name.endswith(("mlp.gate", "mlp.experts")):
            module.register_forward_pre_hook(note(name))
    with torch.no_grad():
        model(torch.from_numpy(ids.astype(np.int64))[None])
    return seen


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {}
    llama, gemma, mixtral = (
        seeded_model.VARIANTS["llama-gqa2"],
        dense_model.DENSE["gemma3-tied"],
        MOE["mixtral"],
    )
    sources: list[tuple[str, Any, dict[str, Any], NDArray[np.int32]]] = [
        (
            llama.name,
            seeded_model.checkpoint_config(llama),
            dict(seeded_model.checkpoint_weights(llama)),
            seeded_model.token_ids(llama),
        ),
        (
            gemma.name,
            dict(gemma.config),
            dict(dense_model.checkpoint_weights(gemma)),
            dense_model.token_ids(gemma),
        ),
        (
            mixtral.name,
            dict(mixtral.config),
            moe_model.checkpoint_weights(mixtral),
            moe_model.token_ids(mixtral),
        ),
    ]
    for variant, config, weights, ids in sources:
        for name, rows in observed(config, weights, ids).items():
            arrays[f"{variant} {name}"] = (rows**2).sum(0)
            if name.endswith("mlp.gate"):
                arrays |= experts(variant, name, rows, weights)
    keep(OUT, arrays, "torch", "transformers")


def experts(
    variant: str, gate: str, rows: NDArray[np.float64], weights: dict[str, Any]
) -> dict[str, NDArray[Any]]:
    """Sums and counts of each expert of mixtral, from what the router reads."""
    block = gate.removesuffix("mlp.gate") + "block_sparse_moe"
    chosen = np.argsort(-(rows @ weights[f"{block}.gate.weight"].T), axis=1)[:, :2]
    num_experts = len(weights[f"{block}.gate.weight"])
    inputs, inner, counts = [], [], []
    for e in range(num_experts):
        mine = rows[(chosen == e).any(1)]
        w1, w3 = (weights[f"{block}.experts.{e}.{w}.weight"].astype(float) for w in ("w1", "w3"))
        gates = mine @ w1.T
        product = gates / (1.0 + np.exp(-gates)) * (mine @ w3.T)
        inputs.append((mine**2).sum(0))
        inner.append((product**2).sum(0))
        counts.append(len(mine))
    stem = f"{variant} {gate.removesuffix('.gate')}"
    return {
        f"{stem}.experts in": np.stack(inputs),
        f"{stem}.experts inner": np.stack(inner),
        f"{stem}.experts counts": np.array(counts),
    }


if __name__ == "__main__":
    main()
