"""Makes tests/goldens/models/encoder.npz: what transformers computes for the seeded encoders.

Run it in an environment of its own with torch (CPU), transformers and NumPy:

    python tests/goldens/make_encoder_goldens.py

It needs nothing of Tektra. Weights are not stored: `encoder_model.py` makes them from a seed.
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

from tests.goldens.encoder_model import (
    checkpoint_weights,
    config_json,
    fingerprint,
    segments,
    token_ids,
)
from tests.goldens.keep import keep
from tests.goldens.variants_encoder import ENCODERS, Encoder

OUT = Path(__file__).parent / "models" / "encoder.npz"


def outputs(v: Encoder) -> dict[str, NDArray[np.float32]]:
    """float32 ``hidden`` [num_tokens, hidden], and ``scores`` [labels] where there is a head."""
    values = config_json(v)
    model_class = getattr(transformers, values.pop("architectures")[0])
    config = model_class.config_class.from_dict(values)
    config._attn_implementation = "eager"
    model = model_class(config).to(torch.float32).eval()
    state = {name: torch.from_numpy(array) for name, array in checkpoint_weights(v).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SystemExit(f"{v.name}: missing {missing}, unexpected {unexpected}")
    inputs = {"input_ids": torch.from_numpy(token_ids(v).astype(np.int64))[None]}
    if v.family != "modernbert":
        inputs["token_type_ids"] = torch.from_numpy(segments(v).astype(np.int64))[None]
    with torch.no_grad():
        if not v.labels:
            return {"hidden": model(**inputs).last_hidden_state[0].numpy()}
        scores = model(**inputs).logits[0].numpy()
        hidden = model.base_model(**inputs).last_hidden_state[0].numpy()
    return {"hidden": hidden, "scores": scores}


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, v in ENCODERS.items():
        out = outputs(v)
        arrays[f"{name} hidden"] = out["hidden"][list(v.rows)]
        if "scores" in out:
            arrays[f"{name} scores"] = out["scores"]
        arrays[f"{name} fingerprint"] = np.array(fingerprint(v))
        print(f"{name:20} max |hidden| {np.abs(out['hidden']).max():.2f} {out.get('scores', '')}")
    keep(OUT, arrays, "torch", "transformers")


if __name__ == "__main__":
    main()
