"""Makes tests/goldens/adapters/: what PEFT and transformers compute for the seeded adapters.

Run it in an environment of its own with torch (CPU), transformers, peft and NumPy:

    python tests/goldens/make_adapter_goldens.py

It needs nothing of Tektra. Logits are in logits.npz; beside it lies each adapter's configuration
as PEFT writes it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import safetensors.numpy
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.keep import keep
from tests.goldens.make_model_goldens import logits_of, transformers_model
from tests.goldens.seeded_adapters import (
    ADAPTERS,
    COMBINATIONS,
    SeededAdapter,
    adapter_fingerprint,
    peft_config,
    peft_weights,
)
from tests.goldens.seeded_model import VARIANTS, Variant, checkpoint_weights

OUT = Path(__file__).parent / "adapters"


def logits(v: Variant, adapters: Sequence[SeededAdapter]) -> NDArray[np.float32]:
    model = transformers_model(v, rope=dict(v.rope))
    if adapters:
        first, *more = adapters
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(**peft_config(first)), adapter_name=first.name
        )
        for a in more:
            wrapped.add_adapter(a.name, peft.LoraConfig(**peft_config(a)))
        for a in adapters:
            state = {
                name: torch.from_numpy(array)
                for name, array in peft_weights(a, checkpoint_weights(v)).items()
            }
            result = peft.set_peft_model_state_dict(wrapped, state, adapter_name=a.name)
            missing = [n for n in result.missing_keys if "lora_" in n and f".{a.name}." in n]
            if missing or result.unexpected_keys:
                raise SystemExit(f"{a.name}: missing {missing}, {result.unexpected_keys}")
            write_config(wrapped, a, v)
        wrapped.base_model.set_adapter([a.name for a in adapters])
        model = wrapped.eval()
    return logits_of(model, v)


def write_config(wrapped: Any, a: SeededAdapter, v: Variant) -> None:
    """Keeps the configuration that PEFT writes, and looks at the names that it gives tensors."""
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder, selected_adapters=[a.name], save_embedding_layers=False)
        (saved,) = Path(folder).rglob("adapter_model.safetensors")
        tensors = safetensors.numpy.load_file(saved)
        if tensors.keys() != peft_weights(a, checkpoint_weights(v)).keys():
            raise SystemExit(f"{a.name}: PEFT has other names: {sorted(tensors)[:4]}")
        config = json.loads((saved.parent / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (OUT / f"{a.name}.json").write_text(text)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    cases = {name: (name,) for name in ADAPTERS} | dict(COMBINATIONS)
    for case, names in cases.items():
        adapters = [ADAPTERS[name] for name in names]
        v = VARIANTS[adapters[0].base]
        plain, full = logits(v, ()), logits(v, adapters)
        change = float(np.abs(full - plain).max() / np.abs(full).max())
        if change < 0.05:
            raise SystemExit(f"{case}: the adapter hardly shows ({change:.3g})")
        arrays[case] = full[list(v.rows)]
        print(f"{case:18} max |logit| {np.abs(full).max():.2f}  effect {change:.3f}")
    for name, a in ADAPTERS.items():
        arrays[f"{name} fingerprint"] = np.array(
            adapter_fingerprint(a, checkpoint_weights(VARIANTS[a.base]))
        )
    keep(OUT / "logits.npz", arrays, "torch", "peft")


if __name__ == "__main__":
    main()
