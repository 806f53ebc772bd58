"""Makes tests/goldens/models/moe.npz: what transformers computes for the mixtures of experts.

Run it in an environment of its own with torch (CPU), transformers, safetensors and NumPy:

    python tests/goldens/make_moe_goldens.py

It needs nothing of Tektra. transformers reads each model from a directory with the names that
checkpoints have on the hub, which it has other ones for inside. Weights are not stored:
`moe_model.py` makes them from a seed.
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

from tests.goldens.keep import keep
from tests.goldens.moe_model import checkpoint_weights, fingerprint, token_ids
from tests.goldens.variants_moe import MOE, MoeVariant

OUT = Path(__file__).parent / "models" / "moe.npz"


def logits(v: MoeVariant, folder: Path) -> NDArray[np.float32]:
    """float32 [num_tokens, vocab] by transformers, in float32 with plain attention."""
    (folder / "config.json").write_text(json.dumps(dict(v.config)))
    save_file(checkpoint_weights(v), folder / "model.safetensors", metadata={"format": "pt"})
    model: Any
    more = {}
    if v.is_mxfp4:
        more["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
        **more,
    )
    tied = {"lm_head.weight"} if v["tie_word_embeddings"] else set()
    if set(info["missing_keys"]) - tied or info["unexpected_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{v.name}: {info}")
    [expected] = v["architectures"]
    if type(model).__name__ != expected:
        raise SystemExit(f"{v.name} is a {type(model).__name__}, not a {expected}")
    model.eval()
    with torch.no_grad():
        out = model(torch.from_numpy(token_ids(v).astype(np.int64))[None]).logits
    return np.asarray(out[0].numpy(), np.float32)


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, v in MOE.items():
        with tempfile.TemporaryDirectory() as folder:
            full = logits(v, Path(folder))
        arrays[name] = full[list(v.rows)]
        arrays[f"{name} fingerprint"] = np.array(fingerprint(v))
        print(f"{name:24} max |logit| {np.abs(full).max():.2f}")
    keep(OUT, arrays, "torch", "transformers")


if __name__ == "__main__":
    main()
