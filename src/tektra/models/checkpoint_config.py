"""The parts of config.json that most models share, as GGUF metadata and tensors.

Sizes, heads, norms and rotary positions. Keys are GGUF's without the architecture in front. It does
not know which model it is; what a model has besides, its own file reads.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.hf_config import HfConfig
from tektra.models.base import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH

__all__ = [
    "common_metadata",
    "head_dim",
    "rope_metadata",
    "rope_parameters",
    "rope_tensors",
    "rotary_dim",
]

_MIN_FACTOR, _MAX_FACTOR = 1.0 / 1024, 1.0e6
_MIN_BASE, _MAX_BASE = 2.0, 1e15
_ROPE_KEYS: Final = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "long_factor", "short_factor", "attention_factor"),
}
_ALWAYS: Final = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "finetuned",
}
_ALIASES: Final = {"su": "longrope", "none": "default"}


def common_metadata(
    c: HfConfig,
    *,
    eps: str = "rms_norm_eps",
    default_eps: float = 1e-6,
    default_theta: float = 10_000.0,
) -> dict[str, Any]:
    """Metadata of a decoder of llama's shape; a model's own function adds to it or corrects it.

    Args:
        c: the config.
        eps: key of the epsilon of RMS norms.
        default_eps: where that key is missing.
        default_theta: rotary base where none is stated.

    Raises:
        FormatError: a value is missing, of the wrong type or out of range; names the key.
        UnsupportedModelError: the rotary scaling is not supported.
    """
    heads = c.int("num_attention_heads", minimum=1, maximum=MAX_HEADS)
    metadata: dict[str, Any] = {
        "block_count": c.int("num_hidden_layers", minimum=1, maximum=MAX_LAYERS),
        "context_length": c.int("max_position_embeddings", minimum=1, maximum=MAX_CONTEXT),
        "embedding_length": c.int("hidden_size", minimum=1, maximum=MAX_WIDTH),
        "feed_forward_length": c.int("intermediate_size", minimum=1, maximum=MAX_WIDTH),
        "attention.head_count": heads,
        "attention.head_count_kv": c.int(
            "num_key_value_heads", default=heads, minimum=1, maximum=MAX_HEADS
        ),
        "attention.layer_norm_rms_epsilon": c.float(
            eps, default=default_eps, minimum=1e-30, maximum=1.0
        ),
        "vocab_size": c.int("vocab_size", minimum=1, maximum=1 << 31),
    }
    if c.has("head_dim"):
        metadata["attention.key_length"] = metadata["attention.value_length"] = head_dim(c)
    return metadata | rope_metadata(c, default_theta=default_theta)


def head_dim(c: HfConfig) -> int:
    """Width of a head: ``head_dim``, or the hidden width shared out among the heads."""
    heads = c.int("num_attention_heads", minimum=1, maximum=MAX_HEADS)
    width = c.int("hidden_size", minimum=1, maximum=MAX_WIDTH)
    return c.int("head_dim", default=max(1, width // heads), minimum=1, maximum=MAX_WIDTH)


def rotary_dim(c: HfConfig) -> int:
    """How many elements of a head are rotated: all, or the share ``partial_rotary_factor``."""
    rope = rope_parameters(c)
    share = rope.float("partial_rotary_factor", default=1.0, minimum=0.0, maximum=1.0)
    return int(head_dim(c) * share)


def rope_parameters(c: HfConfig, *, default_theta: float = 10_000.0) -> HfConfig:
    """The rotary settings, wherever a version of transformers has put them.

    Since 5.0 they are all in ``rope_parameters``; before, ``rope_theta`` and
    ``partial_rotary_factor`` stood by themselves and the rest in ``rope_scaling``. The result has
    ``rope_type`` and ``rope_theta`` in any case.

    Raises:
        FormatError: a value is of the wrong type.
        UnsupportedModelError: the scaling is unknown, or has a key that is.
    """
    rope = c.sub("rope_parameters") or c.sub("rope_scaling") or HfConfig({}, name="rope_parameters")
    more: dict[str, Any] = {}
    for key, least, most in (
        ("rope_theta", _MIN_BASE, _MAX_BASE),
        ("partial_rotary_factor", 0.0, 1.0),
    ):
        value = c.float(key, default=None, minimum=least, maximum=most)
        if value is not None and not rope.has(key):
            more[key] = value
    if not rope.has("rope_theta"):
        more.setdefault("rope_theta", default_theta)
    kind = rope.str("rope_type", default=rope.str("type", default="default"))
    kind = _ALIASES.get(kind, kind)
    if kind not in _ROPE_KEYS:
        raise UnsupportedModelError(
            f"config.json: the rotary scaling {kind[:64]!r} (rope_type) is not supported",
            remedy=f"supported are: {', '.join(_ROPE_KEYS)}",
        )
    unknown = sorted(set(rope.keys()) - _ALWAYS - set(_ROPE_KEYS[kind]))
    if kind == "default":
        unknown = []  # nothing of it is used then
    if unknown:
        raise UnsupportedModelError(
            f"config.json: the rotary scaling {kind!r} has the key {unknown[0]!r}, which is not "
            "supported"
        )
    return rope.merged({**more, "rope_type": kind})


def rope_metadata(c: HfConfig, *, default_theta: float = 10_000.0) -> dict[str, Any]:
    """Metadata below ``rope.``; what frequencies are divided by is in `rope_tensors`."""
    rope = rope_parameters(c, default_theta=default_theta)
    kind = rope.str("rope_type")
    metadata: dict[str, Any] = {
        "rope.freq_base": rope.float("rope_theta", minimum=_MIN_BASE, maximum=_MAX_BASE),
        "rope.dimension_count": rotary_dim(c),
    }
    context = c.int("max_position_embeddings", minimum=1, maximum=MAX_CONTEXT)
    if kind in ("linear", "yarn"):
        metadata["rope.scaling.type"] = kind
        metadata["rope.scaling.factor"] = _factor(rope)
    if kind in ("yarn", "longrope"):
        metadata["rope.scaling.original_context_length"] = _original_context(c, rope, context)
    if kind == "yarn":
        metadata |= _yarn(rope)
    if kind == "longrope":
        metadata["rope.scaling.type"] = kind
        metadata["rope.scaling.attn_factor"] = _longrope_magnitude(c, rope, context)
    # "dynamic" stretches only what is longer than max_position_embeddings, which no text here is.
    return metadata


def rope_tensors(c: HfConfig) -> dict[str, NDArray[np.float32]]:
    """Tensors that a GGUF file has for the scalings llama3 and LongRoPE: float32 [rotary dim / 2].

    What each frequency is divided by (Llama 3.1 model card, "RoPE scaling"; LongRoPE,
    https://arxiv.org/abs/2402.13753).
    """
    rope = rope_parameters(c)
    kind, pairs = rope.str("rope_type"), rotary_dim(c) // 2
    if kind == "longrope":
        return {
            f"rope_factors_{which}.weight": np.array(
                rope.float_list(
                    f"{which}_factor", minimum=_MIN_FACTOR, maximum=_MAX_FACTOR, length=pairs
                ),
                np.float32,
            )
            for which in ("long", "short")
        }
    if kind != "llama3":
        return {}
    base = rope.float("rope_theta", minimum=_MIN_BASE, maximum=_MAX_BASE)
    factor = _factor(rope)
    low = rope.float("low_freq_factor", minimum=1e-3, maximum=_MAX_FACTOR)
    high = rope.float("high_freq_factor", minimum=1e-3, maximum=_MAX_FACTOR)
    if high <= low:
        raise FormatError(
            f"config.json: 'high_freq_factor' is {high}, which is not above {low}, "
            "'low_freq_factor'"
        )
    original = rope.int("original_max_position_embeddings", minimum=1, maximum=MAX_CONTEXT)
    wavelengths = 2.0 * math.pi * base ** (np.arange(pairs, dtype=np.float64) / pairs)
    # 0 where the wavelength is long and divided in full, 1 where it is short and left alone.
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return {"rope_freqs.weight": (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)}


def _factor(rope: HfConfig) -> float:
    return rope.float("factor", minimum=_MIN_FACTOR, maximum=_MAX_FACTOR)


def _original_context(c: HfConfig, rope: HfConfig, context: int) -> int:
    key = "original_max_position_embeddings"
    above = c.int(key, default=context, minimum=1, maximum=MAX_CONTEXT)
    return rope.int(key, default=above, minimum=1, maximum=MAX_CONTEXT)


def _yarn(rope: HfConfig) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if rope.has("truncate"):
        metadata["rope.scaling.yarn_truncate"] = rope.bool("truncate")
    for theirs, ours, least, most in (
        ("attention_factor", "yarn_attn_factor", _MIN_FACTOR, 1024.0),
        ("beta_fast", "yarn_beta_fast", 1e-3, 1e6),
        ("beta_slow", "yarn_beta_slow", 1e-3, 1e6),
    ):
        value = rope.float(theirs, default=None, minimum=least, maximum=most)
        if value is not None:
            metadata[f"rope.scaling.{ours}"] = value
    mscale = rope.float("mscale", default=0.0, minimum=0.0, maximum=1024.0)
    all_dim = rope.float("mscale_all_dim", default=0.0, minimum=0.0, maximum=1024.0)
    if mscale and all_dim and "rope.scaling.yarn_attn_factor" not in metadata:
        factor = _factor(rope)
        stretch = math.log(factor) if factor > 1.0 else 0.0
        metadata["rope.scaling.yarn_attn_factor"] = (0.1 * mscale * stretch + 1.0) / (
            0.1 * all_dim * stretch + 1.0
        )
    return metadata


def _longrope_magnitude(c: HfConfig, rope: HfConfig, context: int) -> float:
    stated = rope.float("attention_factor", default=None, minimum=_MIN_FACTOR, maximum=1024.0)
    if stated is not None:
        return stated
    original = _original_context(c, rope, context)
    # A text is stretched from what the model was first trained on to its context now.
    factor = rope.float(
        "factor", default=context / original, minimum=_MIN_FACTOR, maximum=_MAX_FACTOR
    )
    if factor <= 1.0 or original <= 1:
        return 1.0
    return math.sqrt(1.0 + math.log(factor) / math.log(original))
