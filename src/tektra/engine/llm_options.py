"""The options of `tektra.LLM` as a type."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypedDict

from tektra.backends.base import Backend
from tektra.config import KvType
from tektra.progress import CancelToken, ProgressCallback

__all__ = ["LLMOptions"]


class LLMOptions(TypedDict, total=False):
    """The options of `tektra.LLM`, for functions that pass them on."""

    device: str | Backend
    threads: int | None
    context: int | None
    context_policy: str | None
    max_batch: int
    max_rows: int
    kv_type: KvType | None
    quant: str | None
    max_waiting: int | None
    prefix_cache: bool
    seed: int | None
    packed_cache: bool
    adapters: Mapping[str, str | os.PathLike[str]] | None
    progress: ProgressCallback
    cancel: CancelToken | None
