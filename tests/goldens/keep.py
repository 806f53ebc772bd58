"""Writes what an oracle computed, with the versions of what computed it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["keep"]


def keep(path: Path, arrays: Mapping[str, NDArray[Any]], *packages: str) -> None:
    """Arrays by name into an npz file, and ``versions`` of the packages."""
    path.parent.mkdir(exist_ok=True)
    versions = np.array([f"{package} {version(package)}" for package in packages])
    np.savez_compressed(path, allow_pickle=False, versions=versions, **arrays)
    print(path.name, path.stat().st_size, "bytes")
