"""Which tensor of a model becomes what: the presets that people know from llama.cpp, as tables.

It sees names, shapes and a few numbers of the model; it neither reads nor writes weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from tektra.errors import InvalidParameterError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.tensor_info import TensorInfo
from tektra.quantize.recipe import Override, Recipe

__all__ = ["FLOATS", "choose_types"]

_Q2_K, _Q3_K, _Q4_K = GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K
_Q5_K, _Q6_K, _Q8_0 = GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q8_0

FLOATS: Final = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})
"""Types that are not quantized."""

# Matrices that are small and whose errors are not: routers, positions, convolutions, ...
_KEPT: Final = re.compile(
    r"_norm\.weight$|ffn_gate_inp|position_embd|token_types|rope_freqs|ssm_conv1d|shortconv\.conv"
    r"|altup|laurel|per_layer_model_proj|attn_rel_b|time_mix_(first|w[012]|v[012]|a[012]|g[12])"
    r"|time_mix_(decay_w[12]|lerp_fused)|indexer\.[kq]_proj|\.patch_embd|\.rel_pos|ffn_gate_tid2eid"
)
_LAYER: Final = re.compile(r"blk\.([0-9]+)\.")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor stands.

    Attributes:
        layer: its place among the layers that have such a tensor.
        num_layers: how many those are.
        gqa: query heads for each kv head.
        experts: number of experts; 0 for a dense model.
        importance: whether there is an importance matrix.
        large: whether it is of the shape of Llama 2 70B, whose values are shared by eight heads.
    """

    layer: int
    num_layers: int
    gqa: int
    experts: int
    importance: bool
    large: bool

    @property
    def first_eighth(self) -> bool:
        return self.layer < self.num_layers // 8

    @property
    def sensitive(self) -> bool:
        """The first and last eighth of the layers, and every third between them."""
        eighth = self.num_layers // 8
        return (
            self.first_eighth
            or self.layer >= 7 * self.num_layers // 8
            or (self.layer - eighth) % 3 == 2
        )


_Rule = Callable[[_Place], GGMLType | None]
"""What a tensor at a place becomes; None for the mix' base type."""


def _always(type_: GGMLType) -> _Rule:
    return lambda _: type_


def _where(question: Callable[[_Place], bool], type_: GGMLType, other: Any = None) -> _Rule:
    return lambda place: type_ if question(place) else other


def _shared(place: _Place) -> bool:
    return place.gqa >= 4


# Source for all rules: llama_tensor_get_type in llama.cpp (llama-quant.cpp).
_VALUES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "q2_k": _where(_shared, _Q4_K, _Q3_K),
        "q2_k_s": _where(_shared, _Q4_K),
        "q3_k_m": _where(lambda p: p.layer < 2, _Q5_K, _Q4_K),
        "q3_k_l": _always(_Q5_K),
        "q4_k_s": _where(lambda p: p.layer < 4, _Q5_K),
        "q4_k_m": _where(lambda p: p.sensitive, _Q6_K),
        "q5_k_m": _where(lambda p: p.sensitive, _Q6_K),
        "iq4_nl": _where(_shared, _Q5_K),
        "iq4_xs": _where(_shared, _Q5_K),
    }
)
_DOWN: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "q2_k": _always(_Q3_K),
        "q2_k_s": _where(lambda p: p.first_eighth, _Q4_K),
        "q3_k_m": _where(lambda p: p.layer < p.num_layers // 16, _Q5_K, _Q4_K),
        "q3_k_l": _always(_Q5_K),
        "q4_k_s": _where(lambda p: p.first_eighth, _Q5_K),
        "q4_k_m": _where(lambda p: p.sensitive, _Q6_K),
        "q5_k_m": _where(lambda p: p.sensitive, _Q6_K),
        "iq4_nl": _where(lambda p: p.first_eighth and not p.importance, _Q5_K),
        "iq4_xs": _where(lambda p: p.first_eighth and not p.importance, _Q5_K),
        "q4_0": _where(lambda p: p.first_eighth and p.importance, GGMLType.Q4_1),
        "q5_0": _where(lambda p: p.first_eighth and p.importance, GGMLType.Q5_1),
    }
)
_OUT: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "q2_k": _always(_Q3_K),
        "q3_k_m": _always(_Q4_K),
        "q3_k_l": _always(_Q5_K),
    }
)
_OUT_OF_EIGHT: Final[Mapping[str, _Rule]] = MappingProxyType(
    dict.fromkeys(
        ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs"), _always(_Q5_K)
    )
)
_FALLBACK: Final = MappingProxyType(
    {
        GGMLType.IQ4_XS: GGMLType.IQ4_NL,
        GGMLType.Q2_K: GGMLType.Q4_0,
        GGMLType.Q3_K: GGMLType.Q4_0,
        GGMLType.TQ1_0: GGMLType.Q4_0,
        GGMLType.TQ2_0: GGMLType.Q4_0,
        GGMLType.Q4_K: GGMLType.Q5_0,
        GGMLType.Q5_K: GGMLType.Q5_1,
        GGMLType.Q6_K: GGMLType.Q8_0,
    }
)
"""What takes rows that blocks of 256 do not divide."""


def choose_types(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    recipe: Recipe,
    *,
    importance: bool,
) -> dict[str, GGMLType]:
    """The type of each tensor in the model to come.

    Vectors, norms, routers and what else is small stay float32, or what they are if quantized.
    A type whose blocks do not divide a tensor's width gives way to one of blocks of 32, and that
    to float16. Overrides are for matrices: vectors that match keep what they are.

    Args:
        metadata: of the model, by GGUF's keys.
        tensors: of the model.
        recipe: what was asked for.
        importance: whether there is an importance matrix.

    Raises:
        InvalidParameterError: a pattern matches no tensor, or asks for a type that its width
            does not allow.
    """
    overrides = [(o.compiled(), o) for o in recipe.overrides]
    _check_matches(overrides, tensors)
    tied = "output.weight" not in tensors
    places = _places(metadata, tensors, importance)
    chosen: dict[str, GGMLType] = {}
    for name, info in tensors.items():
        given = next((o for pattern, o in overrides if pattern.search(name)), None)
        if given is not None and len(info.shape) >= 2:
            chosen[name] = _exact(given.pattern, given.type, info)
            continue
        if len(info.shape) < 2 or not name.endswith("weight") or _KEPT.search(name):
            chosen[name] = GGMLType.F32 if info.type in FLOATS else info.type
            continue
        is_output = name == "output.weight"
        is_embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if is_embedding and recipe.embedding_type is not None:
            chosen[name] = _exact("embedding_type", recipe.embedding_type, info)
        elif (is_output or (is_embedding and tied)) and recipe.output_type is not None:
            chosen[name] = _exact("output_type", recipe.output_type, info)
        elif recipe.base in FLOATS:
            chosen[name] = recipe.base
        elif recipe.pure:
            chosen[name] = _fitting(recipe.base, info)
        elif is_output or (is_embedding and tied):
            chosen[name] = _fitting(_output_type(recipe, info), info)
        else:
            chosen[name] = _fitting(_mixed(name, info, recipe, places(name)), info)
    return chosen


def _output_type(recipe: Recipe, info: TensorInfo) -> GGMLType:
    base = recipe.base
    if recipe.mix == "mxfp4_moe" or info.shape[-1] % base.block_size:
        return _Q8_0
    return base if base is _Q8_0 else _Q6_K


def _mixed(name: str, info: TensorInfo, recipe: Recipe, place: _Place) -> GGMLType:
    mix, base = recipe.mix, recipe.base
    if mix == "mxfp4_moe":
        return GGMLType.MXFP4 if len(info.shape) > 2 else _Q8_0
    if name == "token_embd.weight":
        return _Q4_K if mix in ("tq1_0", "tq2_0") else base
    none: _Rule = _always(base)
    if any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")):
        found = _VALUES.get(mix, none)(place) or base
        if place.large and found in (_Q3_K, _Q4_K):
            found = _Q5_K
        return _Q8_0 if place.experts == 8 else found
    if "attn_k.weight" in name:
        return _Q8_0 if place.experts == 8 else base
    if "ffn_down" in name:
        return _DOWN.get(mix, none)(place) or base
    if "attn_output.weight" in name:
        rules = _OUT_OF_EIGHT if place.experts == 8 else _OUT
        return rules.get(mix, none)(place) or base
    return base


def _places(
    metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo], importance: bool
) -> Callable[[str], _Place]:
    architecture = metadata.get("general.architecture", "")

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        if hasattr(value, "tolist"):
            value = max(value.tolist(), default=default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1)
    kv_heads = number("attention.head_count_kv", heads)
    layers = number("block_count", 0)
    values = sorted(
        int(found[1])
        for name in tensors
        if "attn_v.weight" in name or "attn_qkv.weight" in name or "attn_kv_b.weight" in name
        if (found := _LAYER.search(name))
    )
    large = architecture == "llama" and layers == 80 and heads != kv_heads

    def place(name: str) -> _Place:
        found = _LAYER.search(name)
        layer = int(found[1]) if found else 0
        count = layers
        if "ffn_down" not in name and layer in values:
            layer, count = values.index(layer), len(values)
        return _Place(
            layer=layer,
            num_layers=count,
            gqa=heads // max(1, kv_heads),
            experts=number("expert_count", 0),
            importance=importance,
            large=large,
        )

    return place


def _fitting(type_: GGMLType, info: TensorInfo) -> GGMLType:
    width = info.shape[-1]
    if width % type_.block_size:
        type_ = _FALLBACK.get(type_, type_)
    return GGMLType.F16 if width % type_.block_size else type_


def _exact(what: str, type_: GGMLType, info: TensorInfo) -> GGMLType:
    if info.shape[-1] % type_.block_size:
        raise InvalidParameterError(
            "tensor",
            f"{what}: {info.name!r} cannot be {type_.name}: its rows of {info.shape[-1]} weights "
            f"are no multiple of {type_.block_size}",
        )
    return type_


def _check_matches(
    overrides: Sequence[tuple[re.Pattern[str], Override]], tensors: Mapping[str, TensorInfo]
) -> None:
    for pattern, override in overrides:
        if not any(pattern.search(n) for n, info in tensors.items() if len(info.shape) >= 2):
            raise InvalidParameterError(
                "tensor",
                f"{override.pattern!r} matches no matrix of the model",
                remedy="names are those of GGUF, such as blk.0.attn_v.weight",
            )
