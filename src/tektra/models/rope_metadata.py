"""Reads rotary positions from GGUF metadata: the keys are the same for every architecture.

It does not know what a model does with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.graph import RopeLayout, RopeScaling, RopeSpec
from tektra.models.base import LONGROPE_TENSORS, MAX_CONTEXT, OPENED_FOR, Shapes

__all__ = ["read_rope", "read_sliding_rope"]

_SCALINGS: Final = {scaling.value: scaling for scaling in RopeScaling}
_MIN_FACTOR, _MAX_FACTOR = 1.0 / 1024, 1.0e6
_MIN_BASE, _MAX_BASE = 2.0, 1.0e15


def read_rope(
    m: Metadata,
    shapes: Shapes,
    *,
    architecture: str,
    head_dim: int,
    context_length: int,
    layout: RopeLayout,
) -> RopeSpec:
    """The rotary positions of a model whose heads are all alike.

    Keys below ``{architecture}.rope``: ``dimension_count``, ``freq_base``, ``scaling.type``,
    ``scaling.factor`` (of old ``scale_linear``), ``scaling.original_context_length``,
    ``scaling.attn_factor``, ``scaling.yarn_*``; and the tensors ``rope_freqs.weight``, or
    ``rope_factors_long.weight`` and ``rope_factors_short.weight`` (LongRoPE, Ding et al.,
    https://arxiv.org/abs/2402.13753). Of these two it is the long one where the model is opened
    for a longer context than it was first trained with: one choice for all rows, since keys that
    are in the cache cannot be rotated anew.

    Raises:
        FormatError: a value is out of range.
        UnsupportedModelError: the scaling is unknown.
    """
    key = f"{architecture}.rope"
    dim = m.int(f"{key}.dimension_count", default=head_dim, minimum=2, maximum=head_dim)
    if dim % 2:
        raise FormatError(
            f"the metadata key {f'{key}.dimension_count'!r} is {dim}: elements are rotated in "
            "pairs, so it must be even"
            if m.has(f"{key}.dimension_count")
            else f"heads are {dim} wide: elements are rotated in pairs, so that must be even"
        )
    spec = RopeSpec(
        head_dim=head_dim,
        dim=dim,
        base=m.float(f"{key}.freq_base", default=10_000.0, minimum=_MIN_BASE, maximum=_MAX_BASE),
        layout=layout,
        freq_factors=_factors(m, shapes, key, context_length),
    )
    return _scaled(spec, m, key, context_length)


def _factors(m: Metadata, shapes: Shapes, key: str, context_length: int) -> str | None:
    """The tensor that frequencies are divided by."""
    long_and_short = [name for name in LONGROPE_TENSORS if name in shapes]
    wanted = m.has(f"{key}.scaling.type") and m.str(f"{key}.scaling.type") == "longrope"
    if "rope_freqs.weight" in shapes or not (long_and_short or wanted):
        return "rope_freqs.weight" if "rope_freqs.weight" in shapes else None
    if len(long_and_short) < len(LONGROPE_TENSORS):
        raise FormatError(
            f"rotary positions by LongRoPE ({key}.scaling.type) need the tensors "
            f"{' and '.join(map(repr, LONGROPE_TENSORS))}, which are not both there",
            remedy="the file is incomplete, or too old: fetch it again",
        )
    original = m.int(
        f"{key}.scaling.original_context_length",
        default=context_length,
        minimum=1,
        maximum=MAX_CONTEXT,
    )
    opened_for = min(m.int(OPENED_FOR, default=original), context_length)
    return LONGROPE_TENSORS[0 if opened_for > original else 1]


def read_sliding_rope(
    m: Metadata, architecture: str, rope: RopeSpec, *, base: float | None, scaled: bool
) -> RopeSpec:
    """The rotary positions of layers that see only a window.

    Args:
        m: the metadata; ``{architecture}.rope.freq_base_swa`` is their base.
        architecture: prefix of the key.
        rope: those of the other layers.
        base: what a file without the key means; None for the base of the other layers.
        scaled: whether they are scaled as in the other layers, or not at all.
    """
    base = m.float(
        f"{architecture}.rope.freq_base_swa",
        default=rope.base if base is None else base,
        minimum=_MIN_BASE,
        maximum=_MAX_BASE,
    )
    if scaled:
        return replace(rope, base=base)
    return RopeSpec(head_dim=rope.head_dim, dim=rope.dim, base=base, layout=rope.layout)


def _scaled(spec: RopeSpec, m: Metadata, key: str, context_length: int) -> RopeSpec:
    """The spec with the scaling that the metadata asks for."""
    name = m.str(f"{key}.scaling.type", default="linear")
    scaling = RopeScaling.NONE if name == "longrope" else _SCALINGS.get(name)
    if scaling is None:
        raise UnsupportedModelError(
            f"the metadata key {f'{key}.scaling.type'!r} is {name[:64]!r}, which is not supported",
            remedy=f"supported are: {', '.join(_SCALINGS)}, longrope",
        )
    # Every key is read whatever the scaling, so that a bad value is refused wherever it stands.
    # A file without a scaling type has the linear one, by a factor that is 1 where it is absent.
    legacy = _read_factor(m, f"{key}.scale_linear", default=1.0)
    factor = _read_factor(m, f"{key}.scaling.factor", default=legacy)
    attn_factor = m.float(
        f"{key}.scaling.attn_factor", default=1.0, minimum=_MIN_FACTOR, maximum=1024.0
    )
    yarn = _yarn(spec, m, f"{key}.scaling", factor, attn_factor, context_length)
    if scaling is RopeScaling.YARN:
        return yarn
    if scaling is RopeScaling.NONE or factor == 1.0:
        return replace(spec, attention_factor=attn_factor)
    return replace(spec, scaling=scaling, factor=factor, attention_factor=attn_factor)


def _yarn(
    spec: RopeSpec,
    m: Metadata,
    key: str,
    factor: float,
    attn_factor: float,
    context_length: int,
) -> RopeSpec:
    for refused, neutral in (("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)):
        value = m.float(f"{key}.{refused}", default=neutral)
        if value != neutral:
            raise UnsupportedModelError(
                f"the metadata key {f'{key}.{refused}'!r} is {value}: only {neutral} is supported"
            )
    beta_fast = m.float(f"{key}.yarn_beta_fast", default=32.0, minimum=1e-3, maximum=1e6)
    yarn = replace(
        spec,
        scaling=RopeScaling.YARN,
        factor=factor,
        original_context=m.int(
            f"{key}.original_context_length",
            default=context_length,
            minimum=1,
            maximum=MAX_CONTEXT,
        ),
        beta_fast=beta_fast,
        beta_slow=m.float(
            f"{key}.yarn_beta_slow", default=min(1.0, beta_fast), minimum=1e-3, maximum=beta_fast
        ),
        truncate=m.bool(f"{key}.yarn_truncate", default=True),
    )
    # yarn_attn_factor stands for the whole magnitude, attn_factor multiplies whatever it is.
    magnitude = m.float(
        f"{key}.yarn_attn_factor", default=yarn.magnitude, minimum=_MIN_FACTOR, maximum=1024.0
    )
    return replace(yarn, attention_factor=attn_factor * magnitude)


def _read_factor(m: Metadata, key: str, default: float) -> float:
    """A scaling factor; zero is how some writers say that there is no scaling."""
    factor = m.float(key, default=default, minimum=0.0, maximum=_MAX_FACTOR)
    if factor == 0.0:
        return 1.0
    if factor < _MIN_FACTOR:
        raise FormatError(f"the metadata key {key!r} is {factor}; it must be {_MIN_FACTOR} or more")
    return factor
