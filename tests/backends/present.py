"""Which backends this machine has: the tests that hold for every backend run on each of these."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping

from tektra.backends.base import Backend
from tektra.backends.reference import ReferenceBackend

__all__ = ["all_backends", "other_backends", "other_instruction_sets"]


def other_backends() -> Mapping[str, Callable[[], Backend]]:
    """Backends that are held against the reference, by name; a broken one fails here."""
    if importlib.util.find_spec("tektra._native") is None:
        return {}
    cpu: Callable[[], Backend] = importlib.import_module("tektra.backends.cpu").CpuBackend
    return {"cpu": cpu}


def other_instruction_sets() -> Mapping[str, Callable[[], Backend]]:
    """The native core with each set of kernels that runs here but is not its choice."""
    if not other_backends():
        return {}
    core = importlib.import_module("tektra._native")
    native = importlib.import_module("tektra.backends.cpu").CpuBackend
    others = [isa for isa in core.compiled_isas() if core.runs_here(isa) and isa != core.isa("")]
    return {f"cpu-{isa}": functools.partial(native, isa=isa) for isa in others}


def all_backends() -> Mapping[str, Callable[[], Backend]]:
    """The reference and those held against it."""
    return {"reference": ReferenceBackend, **other_backends()}
