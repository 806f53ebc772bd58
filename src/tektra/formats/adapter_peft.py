"""Reads LoRA adapters in the form of the PEFT library: a folder with a config and safetensors.

What in the config changes the model and is not computed here is refused by name. Modules keep
transformers' names: it does not know the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.json_file import read_json_object
from tektra.formats.low_rank import MAX_RANK, LowRankUpdate, checked_update
from tektra.formats.quants import dequantize
from tektra.formats.safetensors_file import SafetensorsFile

__all__ = ["PEFT_CONFIG", "PEFT_WEIGHTS", "PeftAdapter", "read_peft_adapter"]

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])(?:\.default)?\.weight")
_TYPES = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
_READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
_OF_TRAINING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "target_modules",
        "task_type",
    }
)
"""Settings of the training, and those that say what the tensors' names say too."""
_NEUTRAL: tuple[Any, ...] = (None, False, "none", [], {}, "")
# Kinds of initialization after which the weights of the model itself are other ones.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_REMEDIES = {
    "use_dora": "DoRA adapters have to be merged into the model first",
    "modules_to_save": "an adapter that brings whole layers has to be merged into the model first",
    "bias": "train the adapter with bias='none'",
}
_MAX_NAMED = 4
_MAX_PATTERN = 256
_MAX_REPEATS = 4


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter by the names of transformers.

    Attributes:
        name: the folder, for errors.
        updates: by the name of the module (``model.layers.0.self_attn.q_proj``).
    """

    name: str
    updates: Mapping[str, LowRankUpdate]


def read_peft_adapter(folder: Path) -> PeftAdapter:
    """The adapter in a folder.

    Raises:
        ModelNotFoundError: a file is not there.
        FormatError: a file is malformed, or the two disagree.
        UnsupportedModelError: it is an adapter of another kind, or has more than plain LoRA.
        MemoryLimitError: it cannot be mapped.

    Source: the LoRA reference and the checkpoint format in PEFT's documentation.
    """
    scales = _Scales(read_json_object(folder / PEFT_CONFIG), folder.name)
    file = SafetensorsFile.open(folder / PEFT_WEIGHTS)
    try:
        factors: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name in file.tensors:
            module, which = _factor(name, folder.name)
            pair = factors.setdefault(module, {})
            if which in pair:
                raise FormatError(f"{folder.name} has two tensors lora_{which} for {module!r}")
            pair[which] = _floats(file, name)
        file.check_unchanged()
    finally:
        file.close()
    if not factors:
        raise FormatError(f"{folder.name} has no tensors", remedy="get the files anew")
    updates: dict[str, LowRankUpdate] = {}
    for module, pair in factors.items():
        if len(pair) < 2:
            missing = "B" if "A" in pair else "A"
            raise FormatError(f"{folder.name} has no tensor lora_{missing} for {module!r}")
        rank, scale = scales.of(module)
        update = checked_update(pair["A"], pair["B"], scale, name=module)
        if update.rank != rank:
            raise FormatError(
                f"{folder.name}: the factors of {module!r} are of rank {update.rank}, but "
                f"{PEFT_CONFIG} says {rank}",
                remedy="the config is of another adapter, or the files are damaged",
            )
        updates[module] = update
    return PeftAdapter(folder.name, updates)


class _Scales:
    """What the config says of each module."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._name = name
        kind = config.get("peft_type")
        if kind != "LORA":
            raise UnsupportedModelError(
                f"{name} is an adapter of the type {str(kind)[:64]!r} (peft_type); only 'LORA' is "
                "supported"
            )
        for key, value in config.items():
            if key in _READ or key in _OF_TRAINING or any(value == n for n in _NEUTRAL):
                continue
            raise UnsupportedModelError(
                f"{name}: {key[:64]!r} in {PEFT_CONFIG} is {str(value)[:64]!r}, which is not "
                "supported",
                remedy=_REMEDIES.get(key, "merge the adapter into the model first"),
            )
        initial = config.get("init_lora_weights")
        if isinstance(initial, str) and initial.lower().startswith(_CHANGED_BASE):
            raise UnsupportedModelError(
                f"{name}: 'init_lora_weights' is {initial[:64]!r}, which changes the weights of "
                "the model itself",
                remedy="convert it to a plain LoRA adapter, as PEFT's documentation says",
            )
        self._rank = self._number(config.get("r"), "r", whole=True)
        self._alpha = self._number(config.get("lora_alpha"), "lora_alpha")
        rslora = config.get("use_rslora", False)
        if not isinstance(rslora, bool):
            raise FormatError(f"{name}: 'use_rslora' in {PEFT_CONFIG} is not true or false")
        self._rslora = rslora
        self._ranks = self._patterns(config, "rank_pattern", whole=True)
        self._alphas = self._patterns(config, "alpha_pattern")

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module."""
        rank = int(_first(self._ranks, module, self._rank))
        alpha = _first(self._alphas, module, self._alpha)
        return rank, alpha / (math.sqrt(rank) if self._rslora else rank)

    def _number(self, value: Any, key: str, *, whole: bool = False) -> float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if whole:
            right = right and isinstance(value, int) and 1 <= value <= MAX_RANK
        if not right or not abs(value) <= 1e6:
            wanted = f"a whole number from 1 to {MAX_RANK}" if whole else "a number"
            raise FormatError(
                f"{self._name}: {key!r} in {PEFT_CONFIG} is {str(value)[:64]}; it must be {wanted}"
            )
        return float(value)

    def _patterns(
        self, config: Mapping[str, Any], key: str, *, whole: bool = False
    ) -> list[tuple[re.Pattern[str], float]]:
        given = config.get(key)
        if given is None:
            return []
        if not isinstance(given, dict):
            raise FormatError(f"{self._name}: {key!r} in {PEFT_CONFIG} is not an object")
        found: list[tuple[re.Pattern[str], float]] = []
        for pattern, value in given.items():
            number = self._number(value, f"{key}[{pattern[:64]}]", whole=whole)
            found.append((self._compiled(pattern, key), number))
        return found

    def _compiled(self, pattern: str, key: str) -> re.Pattern[str]:
        # They come from a file: none may take forever.
        repeats = len(re.findall(r"[*+{]", pattern))
        if (
            len(pattern) > _MAX_PATTERN
            or repeats > _MAX_REPEATS
            or re.search(r"\)[*+{]|\(\?[^:]|\\[0-9]", pattern)
        ):
            raise UnsupportedModelError(
                f"{self._name}: the pattern {pattern[:64]!r} in {key!r} is too complex",
                remedy="use names of modules, or patterns without repeated groups",
            )
        try:
            return re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise FormatError(
                f"{self._name}: {pattern[:64]!r} in {key!r} is no pattern: {error}"
            ) from None


def _first(patterns: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _factor(tensor: str, name: str) -> tuple[str, str]:
    """Which module a tensor belongs to, and which of its factors it is."""
    found = _FACTOR.fullmatch(tensor)
    if found is not None and tensor.startswith(_PREFIX):
        return found["module"].removeprefix(_PREFIX), found["which"]
    what = "no factor of an update of low rank"
    if "lora_embedding_" in tensor:
        what = "an update of the token embeddings"
    elif "lora_magnitude_vector" in tensor:
        what = "a magnitude of DoRA"
    raise UnsupportedModelError(
        f"{name} has the tensor {tensor[:200]!r}, which is {what}: that is not supported",
        remedy="train the adapter on linear layers only, or merge it into the model first",
    )


def _floats(file: SafetensorsFile, name: str) -> NDArray[np.float32]:
    tensor = file.tensors[name]
    type_ = _TYPES.get(tensor.dtype)
    if type_ is None:
        raise UnsupportedModelError(
            f"the tensor {name[:200]!r} is {tensor.dtype}; adapters are {', '.join(_TYPES)}"
        )
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise FormatError(f"the tensor {name[:200]!r} has the shape {tensor.shape}: no matrix")
    return dequantize(file.tensor_bytes(name), type_, tensor.shape, name=name)
