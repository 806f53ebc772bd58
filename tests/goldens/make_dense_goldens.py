"""Makes tests/goldens/models/dense.npz: what transformers computes for the dense variants.

Run it in an environment of its own with torch (CPU), transformers and NumPy:

    python tests/goldens/make_dense_goldens.py

It needs nothing of Tektra. Weights are not stored: `dense_model.py` makes them from a seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.dense_model import (
    DENSE,
    DenseVariant,
    checkpoint_weights,
    fingerprint,
    token_ids,
)
from tests.goldens.keep import keep

OUT = Path(__file__).parent / "models" / "dense.npz"


def logits(v: DenseVariant) -> NDArray[np.float32]:
    """float32 [num_tokens, vocab] by transformers, in float32 with plain attention."""
    config = transformers.AutoConfig.for_model(**v.config)
    model: Any = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    [expected] = v.architectures
    if type(model).__name__ != expected:
        raise SystemExit(f"{v.name} is a {type(model).__name__}, not a {expected}")
    state = {name: torch.from_numpy(array) for name, array in checkpoint_weights(v).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if v.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise SystemExit(f"{v.name}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.eval()
    with torch.no_grad():
        out = model(torch.from_numpy(token_ids(v).astype(np.int64))[None]).logits
    return np.asarray(out[0].numpy(), np.float32)


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, v in DENSE.items():
        full = logits(v)
        arrays[name] = full[list(v.rows)]
        arrays[f"{name} fingerprint"] = np.array(fingerprint(v))
        print(f"{name:18} max |logit| {np.abs(full).max():.2f}")
    keep(OUT, arrays, "torch", "transformers")


if __name__ == "__main__":
    main()
