"""Weights of the small mixtures of experts, and the way from there to GGUF.

`variants_moe.py` says which there are. Weights have the names and the layout of the checkpoints
on the hub; GGUF is written as llama.cpp's converter does it. Needs NumPy alone, and nothing of
Tektra, so that a fault of ours cannot be in both halves of a comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.goldens.seeds import F32, generator, neighbours_rotated, seal, text
from tests.goldens.variants_moe import MoeVariant

__all__ = [
    "checkpoint_weights",
    "fingerprint",
    "gguf_metadata",
    "gguf_weights",
    "token_ids",
]


def token_ids(v: MoeVariant) -> NDArray[np.int32]:
    """The text of the variant: int32 [num_tokens]."""
    return text(v.name, v.num_tokens, v["vocab_size"])


def checkpoint_weights(v: MoeVariant) -> dict[str, Any]:
    """Weights by the names on the hub, in its layout: float32, or the uint8 of MXFP4.

    The router's logits are far enough apart that rounding does not change what is chosen.
    """
    rng = generator(v.name)
    weights: dict[str, Any] = {}
    for name, shape, spread, mean in _tensors(v):
        if v.is_mxfp4 and name.endswith(("gate_up_proj", "down_proj")):
            experts, width, rows = shape
            blocks = (experts, rows, width // 32)
            weights[f"{name}_blocks"] = rng.integers(0, 256, (*blocks, 16), np.uint8)
            # numbers are 2.4 or so, in units of the scale
            scale = round(math.log2(spread / 2.4)) + 127
            weights[f"{name}_scales"] = rng.integers(scale - 1, scale + 2, blocks, np.uint8)
        else:
            weights[name] = (rng.standard_normal(shape) * spread + mean).astype(np.float32)
    return weights


_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _from_mxfp4(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> F32:
    """Numbers by their bits, sign first; of the two in a byte the lower half is the first."""
    table = np.array([*_FP4, *(-x for x in _FP4)], np.float32)
    numbers = np.stack([table[blocks & 15], table[blocks >> 4]], axis=-1)
    numbers = (
        numbers.reshape(*scales.shape, 32) * np.exp2(scales.astype(np.float32) - 127)[..., None]
    )
    return numbers.reshape(*scales.shape[:-1], -1)


Tensor = tuple[str, tuple[int, ...], float, float]


def _tensors(v: MoeVariant) -> Iterator[Tensor]:
    """Name, shape, spread and mean of each tensor."""
    kind, hidden = v["model_type"], v["hidden_size"]

    def linear(
        name: str, rows: int, columns: int, gain: float = 1.0, *, bias: bool = False
    ) -> Iterator[Tensor]:
        yield f"{name}.weight", (rows, columns), gain / math.sqrt(columns), 0.0
        if bias:
            yield f"{name}.bias", (rows,), 0.2, 0.0

    def norm(name: str, width: int) -> Iterator[Tensor]:
        yield f"{name}.weight", (width,), 0.2, 1.0

    def gated(name: str, width: int, parts: tuple[str, str, str]) -> Iterator[Tensor]:
        for part, rows, columns in zip(
            parts, (width, width, hidden), (hidden, hidden, width), strict=True
        ):
            yield from linear(f"{name}.{part}", rows, columns, 1.5)

    yield from linear("model.embed_tokens", v["vocab_size"], hidden, 4.0)
    q_rows, kv_rows = (
        v[key] * v.head_dim for key in ("num_attention_heads", "num_key_value_heads")
    )
    for i in range(v["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield from norm(f"{layer}.input_layernorm", hidden)
        for part, rows in (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)):
            biased = kind in ("qwen2_moe", "gpt_oss")
            gain = 1.0 if part == "v_proj" else 1.5
            yield from linear(f"{layer}.self_attn.{part}", rows, hidden, gain, bias=biased)
        yield from linear(f"{layer}.self_attn.o_proj", hidden, q_rows, bias=kind == "gpt_oss")
        if kind == "qwen3_moe":
            yield from norm(f"{layer}.self_attn.q_norm", v.head_dim)
            yield from norm(f"{layer}.self_attn.k_norm", v.head_dim)
        if kind == "olmoe":
            yield from norm(f"{layer}.self_attn.q_norm", q_rows)
            yield from norm(f"{layer}.self_attn.k_norm", kv_rows)
        if kind == "gpt_oss":
            yield f"{layer}.self_attn.sinks", (v["num_attention_heads"],), 1.0, 1.0
        yield from norm(f"{layer}.post_attention_layernorm", hidden)
        parts = ("gate_proj", "up_proj", "down_proj")
        if not v.is_sparse(i):
            yield from gated(f"{layer}.mlp", v["intermediate_size"], parts)
            continue
        experts, width = v.num_experts, v.expert_width
        if kind == "gpt_oss":
            yield from linear(f"{layer}.mlp.router", experts, hidden, 3.0, bias=True)
            name, wide = f"{layer}.mlp.experts", 3.0 / math.sqrt(hidden)
            yield f"{name}.gate_up_proj", (experts, hidden, 2 * width), wide, 0.0
            yield f"{name}.gate_up_proj_bias", (experts, 2 * width), 0.5, 0.0
            yield f"{name}.down_proj", (experts, width, hidden), 0.5 / math.sqrt(width), 0.0
            yield f"{name}.down_proj_bias", (experts, hidden), 0.5, 0.0
            continue
        if kind.startswith("granitemoe"):
            block = f"{layer}.block_sparse_moe"
            yield from linear(f"{block}.router.layer", experts, hidden, 3.0)
            wide, narrow = 1.5 / math.sqrt(hidden), 1.5 / math.sqrt(width)
            yield f"{block}.input_linear.weight", (experts, 2 * width, hidden), wide, 0.0
            yield f"{block}.output_linear.weight", (experts, hidden, width), narrow, 0.0
            if kind == "granitemoeshared":
                shared = v["shared_intermediate_size"]
                yield from linear(f"{layer}.shared_mlp.input_linear", 2 * shared, hidden, 1.5)
                yield from linear(f"{layer}.shared_mlp.output_linear", hidden, shared, 1.5)
            continue
        block = f"{layer}.block_sparse_moe" if kind == "mixtral" else f"{layer}.mlp"
        yield from linear(f"{block}.gate", experts, hidden, 3.0)
        for e in range(experts):
            names = ("w1", "w3", "w2") if kind == "mixtral" else parts
            yield from gated(f"{block}.experts.{e}", width, names)
        if kind == "qwen2_moe":
            shared = v["shared_expert_intermediate_size"]
            yield from gated(f"{block}.shared_expert", shared, parts)
            yield from linear(f"{block}.shared_expert_gate", 1, hidden, 2.0)
    yield from norm("model.norm", hidden)
    if not v["tie_word_embeddings"]:
        yield from linear("lm_head", v["vocab_size"], hidden)


def fingerprint(v: MoeVariant) -> int:
    """Checksum of text and weights: tells whether the seed still makes what it made."""
    return seal([token_ids(v), *checkpoint_weights(v).values()])


# As GGUF

_GLOBAL = MappingProxyType(
    {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
)
_LAYER = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "mlp.gate": "ffn_gate_inp",
        "mlp.router": "ffn_gate_inp",
        "block_sparse_moe.gate": "ffn_gate_inp",
        "block_sparse_moe.router.layer": "ffn_gate_inp",
        "block_sparse_moe.output_linear": "ffn_down_exps",
        "shared_mlp.output_linear": "ffn_down_shexp",
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
        "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp",
        "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    }
)
_EXPERT = MappingProxyType(
    {
        "w1": "ffn_gate_exps",
        "w2": "ffn_down_exps",
        "w3": "ffn_up_exps",
        "gate_proj": "ffn_gate_exps",
        "down_proj": "ffn_down_exps",
        "up_proj": "ffn_up_exps",
    }
)


def gguf_weights(v: MoeVariant) -> dict[str, F32]:
    """The same weights as a GGUF converter writes them."""
    weights: dict[str, F32] = {}
    stacks: dict[str, list[F32]] = {}
    stored = checkpoint_weights(v)
    for name in [name.removesuffix("_blocks") for name in stored if name.endswith("_blocks")]:
        floats = _from_mxfp4(stored.pop(f"{name}_blocks"), stored.pop(f"{name}_scales"))
        stored[name] = floats.swapaxes(1, 2)
    for name, array in stored.items():
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.*?)(\.weight|\.bias)?", name)
        if found is None:
            stem, ending = name.rsplit(".", 1)
            weights[f"{_GLOBAL[stem]}.{ending}"] = array
            continue
        layer, part, ending = found[1], found[2], found[3] or ""
        blk = f"blk.{layer}"
        expert = re.fullmatch(r"[a-z_]+\.experts\.(\d+)\.(\w+)", part)
        if expert is not None:
            stacks.setdefault(f"{blk}.{_EXPERT[expert[2]]}.weight", []).append(array)
        elif part.endswith(("gate_up_proj", "gate_up_proj_bias")):
            bias = part.endswith("_bias")
            for at, ours in enumerate(("ffn_gate_exps", "ffn_up_exps")):
                half = array[..., at::2] if bias else array.swapaxes(1, 2)[:, at::2]
                weights[f"{blk}.{ours}.{'bias' if bias else 'weight'}"] = half
        elif part.endswith("input_linear"):
            kind = "exps" if part.startswith("block_sparse_moe") else "shexp"
            for ours, half in zip(("gate", "up"), np.split(array, 2, axis=-2), strict=True):
                weights[f"{blk}.ffn_{ours}_{kind}.weight"] = half
        elif part == "mlp.experts.down_proj":
            weights[f"{blk}.ffn_down_exps.weight"] = array.swapaxes(1, 2)
        elif part == "mlp.experts.down_proj_bias":
            weights[f"{blk}.ffn_down_exps.bias"] = array
        elif part == "self_attn.sinks":
            weights[f"{blk}.attn_sinks.weight"] = array
        else:
            ours = _LAYER[part]
            if v.architecture == "gpt-oss" and ours == "ffn_norm":
                ours = "post_attention_norm"
            interleaved = v.architecture in ("llama", "granitemoe")
            if interleaved and ours in ("attn_q", "attn_k"):
                which = "num_attention_heads" if ours == "attn_q" else "num_key_value_heads"
                array = neighbours_rotated(array, v[which])
            if ours == "ffn_gate_inp_shexp":
                array = array[0]
            weights[f"{blk}.{ours}{ending}"] = array
    weights.update({name: np.stack(parts) for name, parts in stacks.items()})
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def gguf_metadata(v: MoeVariant) -> dict[str, Any]:
    """Metadata as a GGUF converter writes it, without a tokenizer.

    What no converter writes, because its programs take it for granted, is not there either, unless
    a variant has it otherwise.
    """
    rope = v["rope_parameters"]
    values: dict[str, Any] = {
        "block_count": v["num_hidden_layers"],
        "context_length": v["max_position_embeddings"],
        "embedding_length": v["hidden_size"],
        "feed_forward_length": v["intermediate_size"],
        "attention.head_count": v["num_attention_heads"],
        "attention.head_count_kv": v["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": v["rms_norm_eps"],
        "rope.freq_base": rope["rope_theta"],
        "expert_count": v.num_experts,
        "expert_used_count": v["num_experts_per_tok"],
    }
    if v.architecture == "llama":
        values["vocab_size"] = v["vocab_size"]
        values["rope.dimension_count"] = v.head_dim
    if "head_dim" in v.config:
        values["attention.key_length"] = values["attention.value_length"] = v["head_dim"]
    if v.architecture in ("qwen2moe", "qwen3moe", "gpt-oss"):
        values["expert_feed_forward_length"] = v.expert_width
    if v.architecture == "qwen2moe":
        values["expert_shared_feed_forward_length"] = v["shared_expert_intermediate_size"]
    for theirs, ours in (
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
        ("shared_intermediate_size", "expert_shared_feed_forward_length"),
    ):
        if theirs in v.config:
            values[ours] = v[theirs]
    if v.config.get("sliding_window") is not None:
        values["attention.sliding_window"] = v["sliding_window"]
    if "layer_types" in v.config and v["layer_types"][0] != "sliding_attention":
        values["attention.sliding_window_pattern"] = [
            kind == "sliding_attention" for kind in v["layer_types"]
        ]
    if rope["rope_type"] == "yarn":
        values["rope.scaling.type"] = "yarn"
        values["rope.scaling.factor"] = rope["factor"]
        original = rope["original_max_position_embeddings"]
        values["rope.scaling.original_context_length"] = original
        if rope["truncate"]:
            values["rope.scaling.yarn_truncate"] = True
    normalized = v.config.get("norm_topk_prob", True)
    if normalized != (v.architecture not in ("qwen2moe", "olmoe")):
        values["expert_weights_norm"] = normalized
    whole = {f"{v.architecture}.{key}": value for key, value in values.items()}
    return {"general.architecture": v.architecture, **whole}
