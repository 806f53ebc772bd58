"""Makes tests/goldens/models/ops.npz: single ops as torch and transformers compute them.

Run it in an environment of its own with torch (CPU), transformers and NumPy:

    python tests/goldens/make_op_goldens.py

It needs nothing of Tektra. Inputs are stored along with outputs; keys and values are of float16, so
that a cache of float16 keeps them as they are.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama

OUT = Path(__file__).parent / "models" / "ops.npz"
POSITIONS = [0, 1, 2, 17, 100, 1023, 8191]
HEADS, KV_HEADS, HEAD_DIM, LENGTH = 4, 2, 16, 45


def rope(arrays: dict[str, Tensor]) -> None:
    """[positions, heads * head_dim] with base 10000, by both layouts."""
    x = torch.randn(len(POSITIONS), HEADS, HEAD_DIM)
    arrays["rope x"] = x.flatten(1)
    frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    angles = torch.tensor(POSITIONS, dtype=torch.float64)[:, None] * frequencies
    both = torch.cat([angles, angles], -1)
    wide = x.double().transpose(0, 1)[None]
    turned, _ = modeling_llama.apply_rotary_pos_emb(wide, wide, both.cos()[None], both.sin()[None])
    arrays["rope half"] = turned[0].transpose(0, 1).flatten(1)
    # As in Llama's own code: neighbours are the parts of a complex number.
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    arrays["rope interleaved"] = torch.view_as_real(turned).flatten(1)


def attention(arrays: dict[str, Tensor]) -> None:
    """[positions, heads * head_dim] of one text, in float64."""
    q = torch.randn(LENGTH, HEADS, HEAD_DIM)
    k, v = (torch.randn(LENGTH, KV_HEADS, HEAD_DIM).half().float() for _ in range(2))
    sinks = torch.randn(HEADS)
    arrays |= {"attention q": q, "attention k": k, "attention v": v, "attention sinks": sinks}
    wide = [x.double().transpose(0, 1)[None] for x in (q, k, v)]
    at = torch.arange(LENGTH)
    seen = {"causal": at <= at[:, None], "bidirectional": at >= 0}
    seen["window"] = seen["causal"] & (at > at[:, None] - 10)
    for name, mask in seen.items():
        out = F.scaled_dot_product_attention(
            *wide, attn_mask=mask.expand(LENGTH, LENGTH), enable_gqa=True
        )
        arrays[f"attention {name}"] = out[0].transpose(0, 1)
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    hidden = hidden.masked_fill(~seen["causal"], -torch.inf)[None, None]
    module: Any = SimpleNamespace(
        num_key_value_groups=HEADS // KV_HEADS, sinks=sinks.double(), training=False, head_dim=16
    )
    scale = HEAD_DIM**-0.5
    out, _ = modeling_gpt_oss.eager_attention_forward(module, *wide, hidden, scaling=scale)
    arrays["attention with sinks"] = out[0]
    out, _ = modeling_gemma2.eager_attention_forward(
        module, *wide, hidden, scaling=scale, softcap=2.0
    )
    arrays["attention with softcap"] = out[0]


def rowwise(arrays: dict[str, Tensor]) -> None:
    x, weight, bias = torch.randn(5, 48) * 3, torch.randn(48), torch.randn(48)
    arrays |= {"x": x, "weight": weight, "bias": bias}
    wide, w, b = x.double(), weight.double(), bias.double()
    arrays |= {
        "rms_norm": F.rms_norm(wide, (48,), w, 1e-5),
        "rms_norm heads": F.rms_norm(wide.reshape(5, 3, 16), (16,), w[:16], 1e-5).flatten(1),
        "layer_norm": F.layer_norm(wide, (48,), w, b, 1e-5),
        "linear": F.linear(wide, w[None] * torch.eye(48).double()[:7], b[:7]),
        "silu": F.silu(wide),
        "gelu": F.gelu(wide),
        "gelu_tanh": F.gelu(wide, approximate="tanh"),
        "relu": F.relu(wide),
        "sigmoid": torch.sigmoid(wide),
        "tanh": torch.tanh(wide),
    }


def main() -> None:
    torch.manual_seed(2024)
    arrays: dict[str, Tensor] = {}
    for part in (rope, attention, rowwise):
        part(arrays)
    stored: dict[str, NDArray[Any]] = {
        name: x.detach().reshape(len(x), -1).float().numpy() if x.ndim > 1 else x.float().numpy()
        for name, x in arrays.items()
    }
    stored["rope positions"] = np.array(POSITIONS, np.int32)
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, allow_pickle=False, **stored)
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
