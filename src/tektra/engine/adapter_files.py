"""Opens an adapter, whichever form it has, and fits it to a model.

It knows the forms by their files; `formats` knows what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path

from tektra.errors import FormatError, ModelNotFoundError, UnsupportedModelError
from tektra.formats.adapter_gguf import read_gguf_adapter
from tektra.formats.adapter_peft import PEFT_CONFIG, PEFT_WEIGHTS, read_peft_adapter
from tektra.formats.low_rank import LowRankUpdate
from tektra.models.adapter_names import renamed
from tektra.models.adapters import fit_adapter
from tektra.models.base import DrawnModel

__all__ = ["read_adapter"]

_PICKLES = ("adapter_model.bin", "adapter_model.pt")


def read_adapter(path: str | os.PathLike[str], drawn: DrawnModel) -> dict[str, LowRankUpdate]:
    """What the adapter at a path adds to the linears of a model, by the names of their matrices.

    Args:
        path: a GGUF file, a folder in PEFT's form, or the weights in one.
        drawn: the model.

    Raises:
        ModelNotFoundError: there is nothing there.
        FormatError: it is malformed, no adapter, or an adapter of another model.
        UnsupportedModelError: it changes what adapters cannot change here, or is of another kind.
        MemoryLimitError: it cannot be mapped.
    """
    where = Path(path)
    try:
        folder = where.is_dir()
    except (OSError, ValueError) as error:
        raise FormatError(f"{str(where)!r} cannot be read: {error}") from error
    if not folder and where.name == PEFT_WEIGHTS:
        where, folder = where.parent, True
    if not folder:
        if where.name in _PICKLES:
            raise _pickle(where)
        return fit_adapter(read_gguf_adapter(where), drawn)
    if not (where / PEFT_WEIGHTS).exists():
        for name in _PICKLES:
            if (where / name).exists():
                raise _pickle(where / name)
    if not (where / PEFT_CONFIG).exists():
        raise ModelNotFoundError(
            f"{str(where)!r} has no {PEFT_CONFIG}",
            remedy="name a GGUF file, or a folder with an adapter in PEFT's form",
        )
    return fit_adapter(renamed(read_peft_adapter(where), drawn), drawn)


def _pickle(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path.name} is a pickle, which can run code when it is opened",
        remedy=f"convert it to {PEFT_WEIGHTS}",
    )
