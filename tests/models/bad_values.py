"""Values that metadata and configurations may hold and no model has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.formats.ggml_types import GGMLType
from tektra.formats.tensor_info import TensorInfo

__all__ = ["BAD", "MISSING", "changed", "headers"]

MISSING = "missing"
BAD: Mapping[str, Any] = MappingProxyType(
    {
        "zero": 0,
        "minus-one": -1,
        "max-int32": 2**31 - 1,
        "max-uint64": 2**64 - 1,
        "nan": math.nan,
        "inf": math.inf,
        "string": "many",
        "bool": True,
        "list": [1, 2, 3],
        MISSING: None,
    }
)


def changed(values: Mapping[str, Any], key: str, bad: str) -> dict[str, Any]:
    """The values with a bad one under a key, or without the key."""
    rest = {name: value for name, value in values.items() if name != key}
    return rest if bad == MISSING else rest | {key: BAD[bad]}


def headers(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, TensorInfo]:
    """What a file of float32 tensors says of them."""
    return {
        name: TensorInfo(name, a.shape, GGMLType.F32, 0, 0, a.nbytes) for name, a in weights.items()
    }
