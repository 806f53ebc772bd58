"""The architectures: which module draws which kind of model.

A plain table from the name in a model file to a module, imported when it is first asked for. It
knows neither devices nor requests.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from tektra.errors import UnsupportedModelError
from tektra.models.base import Architecture

__all__ = ["ARCHITECTURES", "architecture"]

ARCHITECTURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "llama": "tektra.models.llama",
        "qwen2": "tektra.models.qwen2",
    }
)
"""``general.architecture`` of a GGUF file -> the module that draws it."""


def architecture(name: str) -> Architecture:
    """The module that draws models of this architecture.

    Raises:
        UnsupportedModelError: there is none; the error names those there are.
    """
    module = ARCHITECTURES.get(name)
    if module is None:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise UnsupportedModelError(
            f"the architecture {name[:64]!r} (general.architecture) is not supported",
            remedy=f"{hint}supported are: {', '.join(sorted(ARCHITECTURES))}",
        )
    return cast(Architecture, importlib.import_module(module))
