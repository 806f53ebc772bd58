"""What a model directory says besides weights and sizes: chat templates, sampling, ends of text.

As the metadata that a GGUF file has it in. It does not know tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tektra.errors import FormatError, TemplateError
from tektra.formats.hf_config import HfConfig
from tektra.formats.json_file import read_bounded, read_json_object

__all__ = ["end_ids", "extra_metadata", "tokenizer_config"]

_TEMPLATE: Final = "tokenizer.chat_template"
_TEMPLATE_FILE: Final = "chat_template.jinja"
_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_IDS = 1024

# Keys of generation_config.json -> what follows "general.sampling." in GGUF.
_SAMPLING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "temperature": "temp",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "penalty_repeat",
    }
)


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the special tokens that only special_tokens_map.json names.

    Raises:
        FormatError: one of the files is malformed.
    """
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            content = read_json_object(path)
            merged |= {key: value for key, value in content.items() if value is not None}
    return merged


def extra_metadata(folder: Path, generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Chat templates and recommended sampling, by GGUF's keys.

    Raises:
        FormatError: a file is malformed, or a value of a wrong type.
        TemplateError: a chat template is not text.
    """
    metadata: dict[str, Any] = {
        f"{_TEMPLATE}.{name}" if name != "default" else _TEMPLATE: text
        for name, text in _templates(folder).items()
    }
    c = HfConfig(generation_config, name="generation_config.json")
    # Where texts are to be greedy, settings of sampling are what was left of a template.
    if c.bool("do_sample", default=True):
        for theirs, ours in _SAMPLING.items():
            if c.has(theirs):
                value = c.int(theirs) if ours == "top_k" else c.float(theirs)
                metadata[f"general.sampling.{ours}"] = value
    return metadata


def end_ids(*configs: HfConfig) -> frozenset[int]:
    """Ids under ``eos_token_id``, a number or a list of them, in any of the configs.

    Raises:
        FormatError: a value is of the wrong type.
    """
    ids: set[int] = set()
    for c in configs:
        ids.update(_ids(c))
    return frozenset(ids)


def _ids(c: HfConfig) -> list[int]:
    key = "eos_token_id"
    try:
        return [] if not c.has(key) else [c.int(key, minimum=0, maximum=1 << 31)]
    except FormatError:
        found = c.int_list(key, minimum=0, maximum=1 << 31)
        if len(found) > _MAX_IDS:
            raise
        return found


def _templates(folder: Path) -> dict[str, str]:
    """Chat templates by name; a file of its own goes before tokenizer_config.json."""
    found: dict[str, str] = {}
    value = tokenizer_config(folder).get("chat_template")
    if isinstance(value, list):
        for entry in value:
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("name"), str)
                or not isinstance(entry.get("template"), str)
            ):
                raise TemplateError(
                    "tokenizer_config.json: 'chat_template' is a list of something else than "
                    "objects with 'name' and 'template'"
                )
            found[entry["name"]] = entry["template"]
    elif isinstance(value, str):
        found["default"] = value
    elif value is not None:
        raise TemplateError("tokenizer_config.json: 'chat_template' is neither text nor a list")
    more = folder / "additional_chat_templates"
    files = {"default": folder / _TEMPLATE_FILE}
    if more.is_dir():
        files |= {path.stem: path for path in sorted(more.glob("*.jinja"))}
    for name, path in files.items():
        if path.is_file():
            data = read_bounded(path, max_bytes=_MAX_TEMPLATE_BYTES)
            try:
                found[name] = data.decode("utf-8")
            except UnicodeDecodeError:
                raise TemplateError(f"{path.name} is not UTF-8") from None
    return found
