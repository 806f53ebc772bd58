"""What sentence-transformers keeps beside a model: pooling, prompts, the longest text it was for.

As metadata, so that the rest of the program need not know where it came from. The files are data:
names of classes in them are compared, never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.hf_config import HfConfig
from tektra.formats.json_file import read_bounded, read_json_object

__all__ = ["sentence_metadata"]

_MODULES: Final = "modules.json"
_MAX_TOKENS: Final = 1 << 28
# As `{architecture}.pooling_type` numbers them in GGUF.
_POOLING: Final[Mapping[str, int]] = {"mean": 1, "cls": 2, "lasttoken": 3}
_OLDER_POOLING: Final[Mapping[str, str]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: Final[Mapping[str, str]] = {"Identity": "none", "Sigmoid": "sigmoid"}
_RANK: Final = 4


def sentence_metadata(folder: Path, config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Metadata from modules.json and the files that it names, and of a cross-encoder.

    Args:
        folder: the model directory.
        config: content of its config.json.
        architecture: ``general.architecture``, which some keys begin with.

    Raises:
        FormatError: a file is malformed.
        UnsupportedModelError: vectors are made in a way that is not supported.
    """
    metadata = _scores(HfConfig(config, name="config.json"), architecture)
    if not (folder / _MODULES).is_file():
        return metadata
    kinds: list[str] = []
    for kind, path in _modules(folder):
        kinds.append(kind)
        if kind == "Transformer":
            metadata |= _transformer(path if path.is_dir() else folder)
        elif kind == "Pooling":
            metadata |= _pooling(path, architecture)
        elif kind != "Normalize":
            raise UnsupportedModelError(
                f"{_MODULES}: modules of the type {kind[:64]!r} are not supported",
                remedy="supported are: Transformer, Pooling, Normalize",
            )
    metadata["tektra.embedding.normalize"] = "Normalize" in kinds
    return metadata | _prompts(folder)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Type and folder of each module, in order."""
    import json

    try:
        modules = json.loads(read_bounded(folder / _MODULES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{_MODULES} is not JSON: {str(error)[:200]}") from None
    found: list[tuple[str, Path]] = []
    for module in modules if isinstance(modules, list) else [None]:
        kind, path = (
            (module.get("type"), module.get("path", ""))
            if isinstance(module, dict)
            else (None, None)
        )
        if not isinstance(kind, str) or not isinstance(path, str):
            raise FormatError(f"{_MODULES} is not a list of objects with 'type' and 'path'")
        inside = folder / path
        if not inside.resolve().is_relative_to(folder.resolve()):
            raise FormatError(f"{_MODULES}: the path {path[:80]!r} leads out of the directory")
        found.append((kind.rsplit(".", 1)[-1], inside))
    return found


def _transformer(folder: Path) -> dict[str, Any]:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return {}
    c = HfConfig(read_json_object(path), name=path.name)
    metadata: dict[str, Any] = {}
    if c.has("max_seq_length"):
        metadata["tektra.embedding.max_tokens"] = c.int(
            "max_seq_length", minimum=1, maximum=_MAX_TOKENS
        )
    if c.bool("do_lower_case", default=False):
        metadata["tektra.embedding.lower_case"] = True
    return metadata


def _pooling(folder: Path, architecture: str) -> dict[str, Any]:
    c = HfConfig(read_json_object(folder / "config.json"), name=f"{folder.name}/config.json")
    c.only("include_prompt", True)
    if c.has("pooling_mode"):
        c.only("pooling_mode", *_POOLING)
        modes = [c.str("pooling_mode")]
    else:
        modes = [mode for key, mode in _OLDER_POOLING.items() if c.bool(key, default=False)]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise UnsupportedModelError(
            f"{folder.name}/config.json: the pooling {' and '.join(modes) or 'none'} is not "
            "supported",
            remedy=f"supported is one of: {', '.join(_POOLING)}",
        )
    return {f"{architecture}.pooling_type": _POOLING[modes[0]]}


def _prompts(folder: Path) -> dict[str, Any]:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    c = HfConfig(read_json_object(path), name=path.name)
    prompts = c.sub("prompts")
    metadata: dict[str, Any] = {}
    if prompts is not None and prompts.keys():
        names = list(prompts.keys())
        metadata["tektra.embedding.prompt_names"] = names
        metadata["tektra.embedding.prompts"] = [prompts.str(name) for name in names]
    if c.has("default_prompt_name"):
        metadata["tektra.embedding.default_prompt"] = c.str("default_prompt_name")
    return metadata


def _scores(c: HfConfig, architecture: str) -> dict[str, Any]:
    """How a cross-encoder's scores are shown, and that it is one."""
    names = c.str_list("architectures", default=())
    if not names or not names[0].endswith("ForSequenceClassification"):
        return {}
    metadata: dict[str, Any] = {f"{architecture}.pooling_type": _RANK}
    own = c.sub("sentence_transformers")
    older = c.str("sbert_ce_default_activation_function", default="")
    function = older if own is None else own.str("activation_fn", default=older)
    if function:
        short = _ACTIVATIONS.get(function.rsplit(".", 1)[-1])
        if short is None:
            raise UnsupportedModelError(
                f"config.json: scores by the activation {function[:64]!r} are not supported",
                remedy=f"supported are: {', '.join(_ACTIVATIONS)}",
            )
        metadata["tektra.rerank.activation"] = short
    return metadata
