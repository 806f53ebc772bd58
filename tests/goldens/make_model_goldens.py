"""Makes tests/goldens/models/logits.npz: what transformers computes for the seeded models.

Run it in an environment of its own with torch (CPU), transformers and NumPy:

    python tests/goldens/make_model_goldens.py

It needs nothing of Tektra. Weights are not stored: `seeded_model.py` makes them from a seed.
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

from tests.goldens.keep import keep
from tests.goldens.seeded_model import VARIANTS, Variant, checkpoint_weights, fingerprint, token_ids

OUT = Path(__file__).parent / "models" / "logits.npz"
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
}


def transformers_model(v: Variant, *, rope: dict[str, Any]) -> Any:
    """The variant in transformers: float32, with plain attention."""
    make_config, make_model = CLASSES[v.architecture]
    extra: dict[str, Any] = {}
    if v.architecture == "llama":
        extra = {"attention_bias": v.attention_bias, "mlp_bias": v.mlp_bias, "head_dim": v.head_dim}
    config = make_config(
        vocab_size=v.vocab,
        hidden_size=v.hidden,
        intermediate_size=v.ffn,
        num_hidden_layers=v.layers,
        num_attention_heads=v.heads,
        num_key_value_heads=v.kv_heads,
        max_position_embeddings=v.context,
        rms_norm_eps=v.eps,
        tie_word_embeddings=v.tied,
        rope_parameters=rope,
        attn_implementation="eager",
        **extra,
    )
    model = make_model(config).to(torch.float32).eval()
    state = {name: torch.from_numpy(array) for name, array in checkpoint_weights(v).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if v.tied else set()
    if set(missing) - tied or unexpected:
        raise SystemExit(f"{v.name}: missing {missing}, unexpected {unexpected}")
    return model


def logits_of(model: Any, v: Variant) -> NDArray[np.float32]:
    """float32 [num_tokens, vocab] of the variant's text."""
    with torch.no_grad():
        out = model(torch.from_numpy(token_ids(v).astype(np.int64))[None]).logits
    return np.asarray(out[0].numpy(), np.float32)


def logits(v: Variant, *, rope: dict[str, Any]) -> NDArray[np.float32]:
    """What the variant computes with these rotary positions."""
    return logits_of(transformers_model(v, rope=rope), v)


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, v in VARIANTS.items():
        full = logits(v, rope=dict(v.rope))
        plain = logits(v, rope={"rope_type": "default", "rope_theta": v.rope["rope_theta"]})
        change = float(np.abs(full - plain).max() / np.abs(full).max())
        if v.rope["rope_type"] != "default" and change < 0.05:
            raise SystemExit(f"{name}: its rope scaling hardly shows ({change:.3g})")
        arrays[name] = full[list(v.rows)]
        arrays[f"{name} fingerprint"] = np.array(fingerprint(v))
        print(f"{name:18} max |logit| {np.abs(full).max():.2f}  effect of scaling {change:.3f}")
    keep(OUT, arrays, "torch", "transformers")


if __name__ == "__main__":
    main()
