"""Tektra: a local LLM inference stack.

The public names. Each is imported from its module when it is first used, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tektra._version import __version__

if TYPE_CHECKING:
    from tektra.engine.capabilities import Capabilities
    from tektra.engine.outputs import (
        Chunk,
        Completion,
        FinishReason,
        Timings,
        TokenLogprob,
        TopLogprob,
    )
    from tektra.engine.sampling_params import SamplingParams
    from tektra.engine.stats import EngineStats, Health, Latency
    from tektra.errors import (
        BackendError,
        CancelledError,
        ContextLengthError,
        DeviceUnavailableError,
        FormatError,
        IntegrityError,
        InvalidParameterError,
        MemoryLimitError,
        ModelNotFoundError,
        ModelReferenceError,
        QueueFullError,
        RequestError,
        StorageError,
        TektraError,
        TemplateError,
        TemplateLimitError,
        TokenizerError,
        UnsupportedModelError,
    )
    from tektra.llm import LLM, LLMOptions
    from tektra.progress import CancelToken, ProgressCallback, ProgressEvent
    from tektra.quantize.job import quantize_model

__all__ = [
    "LLM",
    "BackendError",
    "CancelToken",
    "CancelledError",
    "Capabilities",
    "Chunk",
    "Completion",
    "ContextLengthError",
    "DeviceUnavailableError",
    "EngineStats",
    "FinishReason",
    "FormatError",
    "Health",
    "IntegrityError",
    "InvalidParameterError",
    "LLMOptions",
    "Latency",
    "MemoryLimitError",
    "ModelNotFoundError",
    "ModelReferenceError",
    "ProgressCallback",
    "ProgressEvent",
    "QueueFullError",
    "RequestError",
    "SamplingParams",
    "StorageError",
    "TektraError",
    "TemplateError",
    "TemplateLimitError",
    "Timings",
    "TokenLogprob",
    "TokenizerError",
    "TopLogprob",
    "UnsupportedModelError",
    "__version__",
    "quantize_model",
]

_MODULES = {
    "tektra.engine.capabilities": ("Capabilities",),
    "tektra.engine.outputs": (
        "Chunk",
        "Completion",
        "FinishReason",
        "Timings",
        "TokenLogprob",
        "TopLogprob",
    ),
    "tektra.engine.sampling_params": ("SamplingParams",),
    "tektra.engine.stats": ("EngineStats", "Health", "Latency"),
    "tektra.llm": ("LLM", "LLMOptions"),
    "tektra.progress": ("CancelToken", "ProgressCallback", "ProgressEvent"),
    "tektra.quantize.job": ("quantize_model",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "tektra.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
