"""The arguments and options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import typer

from tektra.config import DEVICES, KV_TYPES, MAX_CONTEXT, MAX_THREADS

__all__ = [
    "AdapterOption",
    "ContextOption",
    "ContextPolicyOption",
    "DeviceOption",
    "JsonOption",
    "KvTypeOption",
    "ModelArgument",
    "QuantOption",
    "ThreadsOption",
    "WindowOption",
    "adapter_options",
    "whole_number",
]


def whole_number(high: int, low: int = 1) -> Callable[[int | None], int | None]:
    """A callback for an option, which refuses numbers that are not from ``low`` to ``high``."""

    def check(value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not from {low} to {high}")
        return value

    return check


def _known_device(value: str | None) -> str | None:
    if value is not None and value not in DEVICES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(DEVICES)}")
    return value


def _known_policy(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"stop|slide(:[0-9]{1,9})?", value):
        raise typer.BadParameter(f"{value[:60]!r} is none of stop, slide, slide:N")
    return value


def _known_kv_type(value: str | None) -> str | None:
    if value is not None and value not in KV_TYPES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(KV_TYPES)}")
    return value


ModelArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A path with a separator or ending in .gguf (./model.gguf, a directory with one "
        "model) or an alias of the catalog (smollm2:135m).",
        show_default=False,
    ),
]

DeviceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        callback=_known_device,
        metavar="NAME",
        help="What computes: auto (the fastest there is), cpu, reference, cuda or metal. "
        "[default: TEKTRA_DEVICE, else auto]",
    ),
]

WindowOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--context",
        callback=whole_number(MAX_CONTEXT, 4),
        metavar="N",
        help="Tokens in a window.",
    ),
]

ThreadsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        callback=whole_number(MAX_THREADS),
        metavar="N",
        help="Threads that compute. [default: TEKTRA_THREADS, else the physical cores]",
    ),
]

AdapterOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="PATH[=SCALE]",
        help="A LoRA adapter of the model: a GGUF file, or a folder in PEFT's form. Several may be "
        "given; each adds its own, times SCALE.",
    ),
]


def adapter_options(given: Sequence[str] | None) -> tuple[dict[str, str], dict[str, float]]:
    """Paths and scales of the adapters that were asked for, by the names that they get."""
    paths: dict[str, str] = {}
    scales: dict[str, float] = {}
    for text in given or ():
        path, equals, number = text.rpartition("=")
        try:
            scale = float(number) if equals else 1.0
        except ValueError:
            path, equals, scale = text, "", 1.0  # a path with an equals sign in it
        path = path if equals else text
        if not path or not math.isfinite(scale):
            raise typer.BadParameter(f"{text!r} is no PATH[=SCALE]", param_hint="--adapter")
        if path in paths:
            raise typer.BadParameter(f"{path!r} is given twice", param_hint="--adapter")
        paths[path] = path
        scales[path] = scale
    return paths, scales


ContextOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--context",
        callback=whole_number(MAX_CONTEXT),
        metavar="N",
        help="Tokens that prompt and answer may have together. [default: TEKTRA_CONTEXT, else "
        "chosen by model and memory]",
    ),
]

ContextPolicyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--context-policy",
        callback=_known_policy,
        metavar="NAME",
        help="What happens to texts beyond the context: stop ends answers and refuses prompts; "
        "slide keeps the first tokens and the newest, and goes on; slide:N keeps N first ones. "
        "[default: TEKTRA_CONTEXT_POLICY, else stop]",
    ),
]

KvTypeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kv-type",
        callback=_known_kv_type,
        metavar="NAME",
        help="What keys and values are kept as: f16, int8 in nearly half the memory, or f32. "
        "[default: TEKTRA_KV_TYPE, else f16]",
    ),
]

QuantOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--quant",
        metavar="NAME",
        help="Quantize float weights to this while they are loaded: q8_0, q4_k, ... [default: "
        "TEKTRA_QUANT, else not]",
    ),
]

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")
]
