"""What can be told of a model from the header of its file, as plain data.

It reads no weights and prints nothing. A model that cannot be run is described all the same, with
the reason.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tektra.backends.base import CompileOptions
from tektra.config import KvType
from tektra.engine.model_files import ModelFile, load_tokenizer, open_model
from tektra.errors import TektraError
from tektra.formats.gguf_values import GGUFArray
from tektra.formats.tensor_info import TensorInfo
from tektra.hub import ResolvedModel, resolve

__all__ = ["summarize"]

_MAX_SHOWN_ITEMS = 8
_TEMPLATE_KEY = "tokenizer.chat_template"
_TEMPLATE_WORDS = ("system", "tools", "image", "audio", "documents", "enable_thinking")
_DEFAULT_CONTEXT = 4096


def summarize(
    reference: str,
    *,
    device: str,
    context: int | None,
    with_tensors: bool,
    kv_type: KvType = "f16",
) -> dict[str, Any]:
    """Everything that `tektra show` tells, ready for JSON.

    Args:
        reference: see `tektra.hub.resolve`.
        device: where the memory is counted.
        context: tokens for which it is counted; None: 4096, or what the model was made for.
        kv_type: what keys and values are kept as.
        with_tensors: whether to list every tensor.

    Raises:
        TektraError: the file cannot be found or read.
    """
    resolved = resolve(reference)
    with open_model(resolved.path) as file:
        tensors = file.tensors
        parameters = sum(math.prod(info.shape) for info in tensors.values())
        stored = sum(info.nbytes for info in tensors.values())
        unsupported, memory = _memory(file, device, context, kv_type)
        problem, sampling = _sampling(file.metadata, resolved)
        unsupported = unsupported or problem
        architecture = file.metadata.get("general.architecture")
        summary: dict[str, Any] = {
            "model": reference,
            "name": resolved.name,
            "source": resolved.source,
            "files": [str(path) for path in file.paths],
            "format": file.format_name,
            "format_version": file.version,
            "bytes": file.file_bytes,
            "architecture": architecture if isinstance(architecture, str) else None,
            "unsupported": unsupported,
            "parameters": parameters,
            "bits_per_weight": 8 * stored / parameters if parameters else 0.0,
            "types": _types(tensors, stored),
            "tokenizer": _tokenizer(file),
            "templates": _templates(file.metadata),
            "sampling": sampling,
            "memory": memory,
            "packed_copies": _packed_copies(file, resolved),
            "metadata": {key: _plain(value) for key, value in file.metadata.items()},
        }
        if with_tensors:
            summary["tensors"] = [
                {
                    "name": info.name,
                    "shape": list(info.shape),
                    "type": info.type.name,
                    "bytes": info.nbytes,
                    "file": info.file,
                    "offset": info.offset,
                }
                for info in tensors.values()
            ]
    return summary


def _types(tensors: Mapping[str, TensorInfo], stored: int) -> list[dict[str, Any]]:
    """Tensors, parameters and bytes by type, the largest part first."""
    groups: dict[str, list[TensorInfo]] = defaultdict(list)
    for info in tensors.values():
        groups[info.type.name].append(info)
    parts = [
        {
            "type": name,
            "tensors": len(group),
            "parameters": sum(math.prod(info.shape) for info in group),
            "bytes": sum(info.nbytes for info in group),
            "share": sum(info.nbytes for info in group) / stored if stored else 0.0,
        }
        for name, group in groups.items()
    ]
    return sorted(parts, key=lambda part: -int(str(part["bytes"])))


def _memory(
    file: ModelFile, device: str, context: int | None, kv_type: KvType
) -> tuple[str | None, dict[str, Any]]:
    """Why the model cannot be run (None where it can), and the memory for one sequence."""
    from tektra.backends.select import select_backend
    from tektra.engine.sizing import choose_sizes, context_limit
    from tektra.models.base import draw

    memory: dict[str, Any] = {
        "device": device,
        "context": context,
        "kv_type": kv_type,
        "parts": {},
        "total": None,
        "problem": None,
    }
    try:
        drawn = draw(file.metadata, file.tensors, name=file.path.name)
    except TektraError as error:
        memory["problem"] = "the model cannot be run"
        return str(error), memory
    if context is None:
        context = min(_DEFAULT_CONTEXT, context_limit(drawn))
    memory["context"] = context
    try:
        backend = select_backend(device)
        memory["device"] = backend.name
        # What is there does not matter here: a person wants to know what it would take.
        sizes = choose_sizes(
            drawn,
            backend,
            file.tensors,
            context=context,
            max_batch=1,
            options=CompileOptions(kv_type=kv_type),
            memory=1 << 62,
        )
        use = backend.plan(drawn.graph, file.tensors, sizes.options)
    except TektraError as error:
        memory["problem"] = str(error)
        return None, memory
    memory["kv_type"] = sizes.options.kv_type  # encoders choose it themselves
    memory["parts"] = dict(use.parts)
    memory["total"] = use.total
    return None, memory


def _packed_copies(file: ModelFile, resolved: ResolvedModel) -> list[dict[str, Any]]:
    """The copies of its weights from which the model starts faster, one for each layout."""
    from tektra.config import cache_dir
    from tektra.engine.packed_copy import PackedCopy, default_store
    from tektra.engine.verify import VerifiedFiles

    known = VerifiedFiles(cache_dir() / "verified.json")
    source = PackedCopy(file, resolved.sha256, None, known).source()
    return [
        {"path": str(copy.path), "layout": copy.layout, "bytes": copy.num_bytes}
        for copy in default_store(0).copies()
        if copy.source == source
    ]


def _sampling(
    metadata: Mapping[str, Any], resolved: ResolvedModel
) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with the recommended settings (None: nothing), and those settings."""
    from tektra.engine.recommended_sampling import recommended_sampling

    try:
        found = recommended_sampling(metadata, resolved.sampling)
    except TektraError as error:
        return str(error), {"recommended": {}, "not_followed": {}}
    return None, {
        "recommended": dict(found.settings),
        "not_followed": dict(found.not_followed),
    }


def _tokenizer(file: ModelFile) -> dict[str, Any]:
    """The tokenizer's kind and size; special tokens with their text."""
    if file.format_name == "gguf":
        return _gguf_tokenizer(file.metadata)
    try:
        tokenizer = load_tokenizer(file)
    except TektraError as error:
        return {"problem": str(error)}
    summary: dict[str, Any] = {
        "model": tokenizer.kind,
        "pre": tokenizer.pre or None,
        "tokens": tokenizer.vocab_size,
    }
    special = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    special |= {"unknown": tokenizer.unk_id, "padding": tokenizer.pad_id}
    for role, token_id in special.items():
        if token_id is not None:
            summary[role] = f"{token_id} {tokenizer.token_text(token_id)!r}"
    return summary | {"add_bos": tokenizer.add_bos, "add_eos": tokenizer.add_eos}


def _gguf_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    summary: dict[str, Any] = {
        "model": metadata.get("tokenizer.ggml.model"),
        "pre": metadata.get("tokenizer.ggml.pre"),
        "tokens": len(tokens) if isinstance(tokens, GGUFArray) else None,
        "merges": len(merges) if isinstance(merges, GGUFArray) else None,
    }
    for role in ("bos", "eos", "eot", "unknown", "padding"):
        token_id = metadata.get(f"tokenizer.ggml.{role}_token_id")
        if not isinstance(token_id, int):
            continue
        text = ""
        if isinstance(tokens, GGUFArray) and 0 <= token_id < len(tokens):
            text = f" {tokens[token_id]!r}"
        summary[role] = f"{token_id}{text}"
    summary["add_bos"] = metadata.get("tokenizer.ggml.add_bos_token")
    summary["add_eos"] = metadata.get("tokenizer.ggml.add_eos_token")
    return {key: _plain(value) for key, value in summary.items()}


def _templates(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each chat template: its name, length, digest, and which features its text names."""
    templates = []
    for key, source in metadata.items():
        if not (key == _TEMPLATE_KEY or key.startswith(f"{_TEMPLATE_KEY}.")):
            continue
        if isinstance(source, str):
            encoded = source.encode("utf-8", "surrogateescape")
            templates.append(
                {
                    "name": key[len(_TEMPLATE_KEY) + 1 :] or "default",
                    "characters": len(source),
                    "sha256": hashlib.sha256(encoded).hexdigest(),
                    "mentions": [word for word in _TEMPLATE_WORDS if word in source],
                }
            )
    return templates


def _plain(value: Any) -> Any:
    """A metadata value as JSON has it; long arrays by their beginning."""
    if isinstance(value, GGUFArray):
        if len(value) <= _MAX_SHOWN_ITEMS:
            return [_plain(item) for item in value.tolist()]
        return {
            "type": value.element_type.name.lower(),
            "length": len(value),
            "first": [_plain(item) for item in value[:_MAX_SHOWN_ITEMS]],
        }
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no such numbers
    return value
