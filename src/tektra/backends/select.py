"""Chooses the backend for a device name. Imports a backend only when it is chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from tektra.backends.base import Backend
from tektra.backends.cpu import CpuBackend, native_core
from tektra.errors import DeviceUnavailableError, InvalidParameterError

__all__ = ["DEVICES", "select_backend"]


def _auto() -> Backend:
    return _cpu() if native_core() is not None else _reference_with_warning()


def _cpu() -> Backend:
    return CpuBackend()


def _reference() -> Backend:
    from tektra.backends.reference import ReferenceBackend

    return ReferenceBackend()


def _reference_with_warning() -> Backend:
    warnings.warn(
        "Tektra was installed without its native core and runs on the NumPy reference backend: "
        "expect a tenth of the speed or less, and weights in memory as float32 (eight times the "
        "size of a 4-bit file). Install it again on a machine with a C++20 compiler.",
        RuntimeWarning,
        stacklevel=2,
    )
    return _reference()


def _not_yet(device: str) -> Callable[[], Backend]:
    def refuse() -> Backend:
        raise DeviceUnavailableError(
            f"this version of Tektra has no {device} backend", remedy="use device='cpu' or 'auto'"
        )

    return refuse


DEVICES: dict[str, Callable[[], Backend]] = {
    "auto": _auto,
    "cpu": _cpu,
    "reference": _reference,
    "cuda": _not_yet("CUDA"),
    "metal": _not_yet("Metal"),
}


def select_backend(device: str = "auto") -> Backend:
    """The backend for ``device``: a name in `DEVICES`.

    ``auto`` is the native CPU backend, or the reference backend, with a warning, where Tektra was
    installed without a compiler.

    Raises:
        InvalidParameterError: there is no such device name.
        DeviceUnavailableError: the device cannot be used here.
    """
    make = DEVICES.get(device)
    if make is None:
        raise InvalidParameterError(
            "device", f"unknown device {device!r}", remedy=f"use one of {', '.join(DEVICES)}"
        )
    return make()
