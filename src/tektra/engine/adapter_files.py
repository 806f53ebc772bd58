"""Opens an adapter, whichever form it has, and fits it to a model.

It knows the forms by their files; `formats` knows what is in them.
"""

from __future__ import annotations

import os

from tektra.formats.adapter_gguf import read_gguf_adapter
from tektra.formats.low_rank import LowRankUpdate
from tektra.models.adapters import fit_adapter
from tektra.models.base import DrawnModel

__all__ = ["PEFT_CONFIG", "read_adapter"]

PEFT_CONFIG = "adapter_config.json"
_PEFT_PICKLES = ("adapter_model.bin", "adapter_model.pt")


def read_adapter(path: str | os.PathLike[str], drawn: DrawnModel) -> dict[str, LowRankUpdate]:
    """What the adapter at a path adds to the linears of a model, by the names of their matrices.

    Args:
        path: a GGUF file.
        drawn: the model.

    Raises:
        ModelNotFoundError: there is nothing there.
        FormatError: it is malformed, no adapter, or an adapter of another model.
        UnsupportedModelError: it changes what adapters cannot change here, or is of another kind.
        MemoryLimitError: it cannot be mapped.
    """
    return fit_adapter(read_gguf_adapter(path), drawn)
