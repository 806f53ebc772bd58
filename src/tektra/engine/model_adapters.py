"""The part of `tektra.LLM` that loads and unloads adapters.

It joins the files of adapters, the model that they change, and the engine that runs it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tektra.engine.adapter_files import read_adapter
from tektra.engine.adapters import AdapterInfo
from tektra.errors import InvalidParameterError, MemoryLimitError

if TYPE_CHECKING:
    from tektra.engine.runtime import Ready, Runtime

__all__ = ["ModelAdapters", "load_adapter_into"]


class ModelAdapters:
    """What can be done with the adapters of a model."""

    _runtime: Runtime

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The adapters that are loaded, by name; a snapshot. Waits until the model is loaded."""
        return self._runtime.ready().engine.adapters.infos()

    def load_adapter(self, path: str | os.PathLike[str], *, name: str | None = None) -> AdapterInfo:
        """Loads a LoRA adapter, which requests can then ask for by its name.

        Requests that run go on meanwhile.

        Args:
            path: a GGUF file, or a folder in PEFT's form (``adapter_config.json`` and
                ``adapter_model.safetensors``).
            name: what requests call it; None for the name of the file without its ending, or of
                the folder.

        Raises:
            InvalidParameterError: the name is taken.
            ModelNotFoundError, FormatError, UnsupportedModelError: the adapter cannot be used, or
                is for another model.
            MemoryLimitError: there is no memory for it.
            RequestError: the model was closed.
        """
        return load_adapter_into(self._runtime.ready(), path, name)

    def unload_adapter(self, name: str) -> None:
        """Frees an adapter.

        Raises:
            InvalidParameterError: there is no adapter of that name.
            RequestError: requests that run or wait use it, or the model was closed.
        """
        self._runtime.ready().engine.adapters.remove(name)


def load_adapter_into(ready: Ready, path: str | os.PathLike[str], name: str | None) -> AdapterInfo:
    """`ModelAdapters.load_adapter` for a model that is ready."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidParameterError("path", f"must be a path, not {path!r:.60}")
    if name is None:
        where = Path(path)
        name = where.stem if where.suffix == ".gguf" else where.name
    engine = ready.engine
    engine.adapters.check_free(name)
    try:
        updates = read_adapter(path, ready.model.drawn)
    except MemoryError as error:
        raise MemoryLimitError(
            f"there is not enough memory to load the adapter {os.fspath(path)!r}",
            remedy="end other programs, or unload other adapters",
        ) from error
    info = AdapterInfo(
        name=name,
        path=os.fspath(path),
        rank=max(update.rank for update in updates.values()),
        num_matrices=len(updates),
        num_parameters=sum(update.a.size + update.b.size for update in updates.values()),
    )
    engine.adapters.add(info, updates)
    return info
