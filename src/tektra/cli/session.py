"""Loads a model for a command: settings from options and environment, progress on standard error.

It knows the public API only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tektra.cli.progress_bar import progress_bar
from tektra.config import Settings

if TYPE_CHECKING:
    from tektra.llm import LLM

__all__ = ["open_model", "settings_from"]


# Of writing a packed copy, which has begun by the time that the command is done.
_MAX_WAIT = 5.0


def settings_from(
    device: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv_type: str | None = None,
    packed_cache: int | None = None,
    quant: str | None = None,
    context_policy: str | None = None,
) -> Settings:
    """The environment's settings, with those replaced that an option gives.

    Raises:
        InvalidParameterError: an environment variable has a value that is not allowed.
    """
    given = {
        "device": device,
        "threads": threads,
        "context": context,
        "kv_type": kv_type,
        "packed_cache": packed_cache,
        "quant": quant,
        "context_policy": context_policy,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(Settings.from_environment(), **chosen)  # type: ignore[arg-type]


@contextmanager
def open_model(
    reference: str, settings: Settings, *, adapters: Mapping[str, str] | None = None
) -> Iterator[LLM]:
    """The loaded model, with adapters by name; it is closed at the end.

    Raises:
        TektraError: the model cannot be found, read or loaded.
    """
    from tektra.backends.select import select_backend
    from tektra.llm import LLM

    with progress_bar() as progress:
        llm = LLM(
            reference,
            # A backend, because LLM would read the name "auto" as leave to ask the environment.
            device=select_backend(settings.device),
            threads=settings.threads,
            context=settings.context,
            context_policy=settings.context_policy,
            kv_type=settings.kv_type,
            quant=settings.quant,
            max_batch=1,  # one person asks, one question at a time
            packed_cache=settings.packed_cache > 0,
            adapters=adapters,
            progress=progress,
        )
    with llm:
        yield llm
        # The answer is out: a moment more now, so that the next start has it.
        llm.wait_packed_copy(_MAX_WAIT)
