"""The sampling settings that a model comes with: from its file, and from the catalog.

It turns them into `SamplingParams`, and says which of them cannot be followed. It knows nothing of
requests: who wants other settings gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tektra.engine.sampling_params import SamplingParams
from tektra.errors import FormatError, InvalidParameterError

__all__ = ["RecommendedSampling", "recommended_sampling"]

_PREFIX = "general.sampling."

# What follows the prefix in a GGUF file -> field of `SamplingParams`. The names are those of
# llama.cpp, which writes them when it converts a model that has a generation_config.json.
_FIELDS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_repeat": "repetition_penalty",
    "penalty_last_n": "penalty_last_n",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


@dataclass(frozen=True, slots=True)
class RecommendedSampling:
    """What a model recommends.

    Attributes:
        settings: fields of `SamplingParams` that it names, with their values.
        params: those, and the defaults for the others.
        not_followed: recommendations that this version cannot follow, with the reason; by key.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    params: SamplingParams = field(default_factory=SamplingParams)
    not_followed: Mapping[str, str] = field(default_factory=dict)


def recommended_sampling(
    metadata: Mapping[str, Any], catalog: Mapping[str, Any] | None = None
) -> RecommendedSampling:
    """Reads the recommendations of a model.

    Args:
        metadata: of the GGUF file; the keys that begin with ``general.sampling.`` count.
        catalog: fields of `SamplingParams` that the catalog has for the model. They go before
            those of the file.

    Raises:
        FormatError: a value in the file is of the wrong type or out of range; names the key.
        InvalidParameterError: one in the catalog is.
    """
    settings: dict[str, Any] = {}
    not_followed: dict[str, str] = {}
    for key, value in metadata.items():
        if not key.startswith(_PREFIX):
            continue
        name = _FIELDS.get(key[len(_PREFIX) :])
        reason = _cannot_follow(key, name, value)
        if name is None or reason is not None:
            not_followed[key] = reason or "not known to this version"
        else:
            settings[name] = _checked(key, name, value)
    settings |= catalog or {}
    return RecommendedSampling(settings, SamplingParams().replace(**settings), not_followed)


def _cannot_follow(key: str, name: str | None, value: object) -> str | None:
    if key == f"{_PREFIX}sequence":
        return "the order of the sampling steps is fixed"
    if name == "mirostat" and value == 1:
        return "of mirostat there is version 2 only"
    return None


def _checked(key: str, name: str, value: Any) -> Any:
    if isinstance(value, float):
        value = float(f"{value:.7g}")  # 0.9 as it was meant, not the nearest float32
    elif name == "top_k" and isinstance(value, int):
        value = max(value, 0)  # -1 is how others write: keep all
    try:
        return getattr(SamplingParams().replace(**{name: value}), name)
    except InvalidParameterError as error:
        raise FormatError(
            f"{key}: {error.message.removeprefix(f'{name}: ')}",
            remedy="the file is damaged, or was converted wrongly: get another one",
        ) from None
