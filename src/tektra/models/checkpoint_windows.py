"""Windows of attention in config.json, and rotary settings for each kind of layer.

Which layers see only a window, as GGUF metadata without the architecture in front. It does not know
which model it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tektra.errors import UnsupportedModelError
from tektra.formats.hf_config import HfConfig
from tektra.models.base import MAX_CONTEXT

__all__ = ["kinds_of_rope", "window_metadata"]

_KINDS: Final = {"sliding_attention": True, "full_attention": False}


def window_metadata(
    c: HfConfig, num_layers: int, slides: Callable[[int], bool] | None = None
) -> dict[str, Any]:
    """Metadata of the window ``sliding_window``.

    Args:
        c: the config.
        num_layers: of the model.
        slides: whether a layer has the window where ``layer_types`` does not say; None for models
            all of whose layers have it, and which have no such key.

    Raises:
        FormatError: a value is of the wrong type or out of range.
        UnsupportedModelError: a layer is of a type that is not supported.
    """
    window = c.int("sliding_window", default=0, minimum=1, maximum=MAX_CONTEXT)
    if slides is None:
        return {"attention.sliding_window": window} if window else {}
    types = c.str_list("layer_types", default=(), length=num_layers)
    for kind in types:
        if kind not in _KINDS:
            raise UnsupportedModelError(
                f"config.json: a layer is of the type {kind[:64]!r} (layer_types), which is not "
                "supported",
                remedy=f"supported are: {', '.join(_KINDS)}",
            )
    pattern = [_KINDS[kind] for kind in types] or [slides(i) for i in range(num_layers)]
    if not window or not any(pattern):
        return {}
    return {"attention.sliding_window": window, "attention.sliding_window_pattern": pattern}


def kinds_of_rope(c: HfConfig) -> tuple[HfConfig, HfConfig]:
    """The config with the rotary settings of layers that see everything, and those of the others.

    Since transformers 5 ``rope_parameters`` may have an object for each type of layer.

    Raises:
        UnsupportedModelError: layers with a window have scaled positions.
    """
    rope = c.sub("rope_parameters") or HfConfig({})
    if not _KINDS.keys() & set(rope.keys()):
        return c, HfConfig({})
    full = rope.sub("full_attention") or HfConfig({})
    sliding = rope.sub("sliding_attention") or HfConfig({}, name="sliding_attention")
    sliding.only("rope_type", "default")
    return c.merged({"rope_parameters": full.as_dict()}), sliding
