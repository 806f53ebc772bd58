"""Reads attention from GGUF metadata: the keys are the same for every architecture.

Head counts and sizes, scale, and which layers see only a window. It does not know what a model does
with them.
"""

from __future__ import annotations

import math

from tektra.errors import FormatError
from tektra.formats.gguf_metadata import Metadata
from tektra.graph import AttentionSpec
from tektra.models.base import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_WIDTH,
    Shapes,
    check_width,
    uniform_int,
)

__all__ = ["read_attention", "read_sliding", "read_softcap"]

_MAX_SCALE = 1e6


def read_attention(
    m: Metadata,
    shapes: Shapes,
    *,
    architecture: str,
    num_layers: int,
    width: int,
    window: int = 0,
) -> AttentionSpec:
    """The attention of a model whose layers all have the same heads.

    Keys below ``{architecture}.attention``: ``head_count``, ``head_count_kv``, ``key_length``,
    ``value_length``, ``scale``, ``sliding_window``.

    Args:
        m: the metadata.
        shapes: of all tensors; those of the first layer must agree.
        architecture: prefix of the keys.
        num_layers: of the model.
        width: of the embedding.
        window: what a file without ``sliding_window`` means; 0 for none.

    Raises:
        FormatError: a value is missing or out of range, or contradicts a tensor.
        UnsupportedModelError: the layers differ.
    """
    key = f"{architecture}.attention"
    heads_key, kv_heads_key = f"{key}.head_count", f"{key}.head_count_kv"
    num_heads = uniform_int(m, heads_key, num_layers, maximum=MAX_HEADS)
    num_kv_heads = uniform_int(m, kv_heads_key, num_layers, default=num_heads, maximum=MAX_HEADS)
    if num_heads % num_kv_heads:
        raise FormatError(
            f"the metadata key {kv_heads_key!r} is {num_kv_heads}, which does not divide the "
            f"{num_heads} query heads"
        )
    if width % num_heads and not m.has(f"{key}.key_length"):
        raise FormatError(
            f"the metadata key {heads_key!r} is {num_heads}, which does not divide the "
            f"embedding width {width}"
        )
    default = max(1, width // num_heads)
    head_dim = m.int(f"{key}.key_length", default=default, minimum=1, maximum=MAX_WIDTH)
    value_dim = m.int(f"{key}.value_length", default=default, minimum=1, maximum=MAX_WIDTH)
    sizes = f"{heads_key}, {kv_heads_key}, {key}.key_length and value_length"
    kv_width = num_kv_heads * (head_dim + value_dim)
    for tensor, rows in (
        ("attn_q", num_heads * head_dim),
        ("attn_k", num_kv_heads * head_dim),
        ("attn_v", num_kv_heads * value_dim),
        ("attn_qkv", num_heads * head_dim + kv_width),
    ):
        check_width(shapes, f"blk.0.{tensor}.weight", 0, rows, sizes)
    scale = m.float(f"{key}.scale", default=0.0, minimum=0.0, maximum=_MAX_SCALE)
    window = m.int(f"{key}.sliding_window", default=window, minimum=0, maximum=MAX_CONTEXT)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        value_head_dim=value_dim if value_dim != head_dim else None,
        scale=scale or None,
        window=window or None,
    )


def read_sliding(
    m: Metadata, architecture: str, attention: AttentionSpec, num_layers: int, *, period: int
) -> tuple[bool, ...]:
    """Whether each layer sees only the window: ``{architecture}.attention.sliding_window_pattern``.

    The key is a list with true for each layer that does, or a period: of so many neighbouring
    layers all but the last do; 1 is none and 0 all. No layer does where there is no window.

    Args:
        m: the metadata.
        architecture: prefix of the key.
        attention: which has the window.
        num_layers: of the model.
        period: what a file without the key means.
    """
    key = f"{architecture}.attention.sliding_window_pattern"
    if m.is_list(key):
        sliding = m.bool_list(key, length=num_layers)
    else:
        period = m.int(key, default=period, minimum=0, maximum=MAX_CONTEXT)
        sliding = [period == 0 or i % period < period - 1 for i in range(num_layers)]
    return tuple(s and attention.window is not None for s in sliding)


def read_softcap(m: Metadata, key: str, *, default: float = 0.0) -> float | None:
    """A soft cap on logits; 0 says that there is none."""
    cap = m.float(key, default=default, minimum=0.0, maximum=_MAX_SCALE)
    if cap and not math.isfinite(1.0 / cap):
        raise FormatError(f"the metadata key {key!r} is {cap}, which is too small")
    return cap or None
