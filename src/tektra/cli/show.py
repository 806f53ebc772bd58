"""`tektra show`: what is in a model file, and the memory that it would take. Loads no weights.

It prints; `model_summary.py` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tektra.cli.options import (
    DeviceOption,
    JsonOption,
    KvTypeOption,
    ModelArgument,
    whole_number,
)
from tektra.cli.render import human_bytes, print_json, safe_text
from tektra.cli.session import settings_from
from tektra.config import MAX_CONTEXT

__all__ = ["show"]


def show(
    model: ModelArgument,
    json: JsonOption = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            callback=whole_number(MAX_CONTEXT),
            metavar="N",
            help="Tokens for which the memory is counted. [default: TEKTRA_CONTEXT, else 4096 or "
            "what the model was made for]",
        ),
    ] = None,
    device: DeviceOption = None,
    kv_type: KvTypeOption = None,
) -> None:
    """Show what is in a model: metadata, precision mix, tokenizer, memory."""
    from tektra.cli.model_summary import summarize

    settings = settings_from(device=device, context=context, kv_type=kv_type)
    summary = summarize(
        model,
        device=settings.device,
        context=settings.context,
        kv_type=settings.kv_type,
        with_tensors=tensors,
    )
    if json:
        print_json(summary)
    else:
        _print_summary(summary)


def _print_summary(summary: dict[str, Any]) -> None:
    print(f"{safe_text(summary['name'])}  ({summary['source']})")
    for file in summary["files"]:
        print(f"  {safe_text(file)}")
    print()
    rows = [
        ("format", f"{_format(summary)}, {human_bytes(summary['bytes'])}"),
        ("architecture", summary["architecture"] or "not named"),
        ("parameters", f"{summary['parameters']:,}"),
        ("bits per weight", f"{summary['bits_per_weight']:.2f}"),
    ]
    if summary["unsupported"]:
        rows.append(("cannot be run", summary["unsupported"]))
    for key, value in summary["tokenizer"].items():
        if value is not None:
            rows.append((f"tokenizer {key.replace('_', ' ')}", _shown(value)))
    for template in summary["templates"]:
        mentions = ", ".join(template["mentions"]) or "none"
        rows.append(
            (
                f"template {template['name']}",
                f"{template['characters']:,} characters; knows of: {mentions}",
            )
        )
    if not summary["templates"]:
        rows.append(("template", "none: the model is for completions (--raw)"))
    settings = summary["sampling"]["recommended"]
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    rows.append(("sampling", f"recommended: {shown}" if shown else "nothing is recommended"))
    for key, reason in summary["sampling"]["not_followed"].items():
        rows.append(("not followed", f"{key}: {reason}"))
    for copy in summary["packed_copies"]:
        rows.append(("packed copy", f"{human_bytes(copy['bytes'])}, {copy['path']}"))
    _print_rows(rows)
    print("\nPrecision mix")
    _print_table(
        ("type", "tensors", "parameters", "bytes", "share"),
        [
            (
                part["type"],
                f"{part['tensors']:,}",
                f"{part['parameters']:,}",
                human_bytes(part["bytes"]),
                f"{part['share']:.1%}",
            )
            for part in summary["types"]
        ],
    )
    _print_memory(summary["memory"])
    print("\nMetadata")
    _print_rows([(key, _shown(value)) for key, value in summary["metadata"].items()])
    if "tensors" in summary:
        print("\nTensors")
        _print_table(
            ("name", "shape", "type", "bytes"),
            [
                (
                    safe_text(tensor["name"]),
                    " x ".join(map(str, tensor["shape"])),
                    tensor["type"],
                    human_bytes(tensor["bytes"]),
                )
                for tensor in summary["tensors"]
            ],
        )


def _print_memory(memory: dict[str, Any]) -> None:
    if memory["problem"]:
        print(f"\nMemory: not known: {safe_text(memory['problem'])}")
        return
    print(
        f"\nMemory on {memory['device']} for one sequence of {memory['context']:,} tokens, "
        f"keys and values {memory['kv_type']}"
    )
    parts = memory["parts"]
    _print_table(
        ("part", "bytes"),
        [
            *((part.replace("_", " "), human_bytes(size)) for part, size in parts.items()),
            ("total", human_bytes(memory["total"])),
        ],
    )


def _format(summary: dict[str, Any]) -> str:
    return f"GGUF {summary['format_version']}" if summary["format"] == "gguf" else "safetensors"


def _shown(value: Any) -> str:
    """A value on one line of bounded length."""
    if isinstance(value, dict) and "first" in value:
        first = ", ".join(_shown(item) for item in value["first"])
        return f"[{first}, ...] ({value['length']:,} x {value['type']})"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.7g}"  # what float32 holds
    text = value if isinstance(value, str) else repr(value)
    text = safe_text(text.replace("\n", "\u21b5"))
    return text if len(text) <= 160 else f"{text[:157]}... ({len(text):,} characters)"


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {safe_text(name):<{width}}  {safe_text(value)}")


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned first column, the others as numbers are: to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip())
