"""`tektra embed` and `tektra rerank`: vectors and scores of texts.

Texts come as arguments, or as lines of standard input. It shows; `tektra.LLM` computes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tektra.cli.options import (
    ContextOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    whole_number,
)
from tektra.cli.render import print_json
from tektra.cli.session import open_model, settings_from
from tektra.config import MAX_CONTEXT
from tektra.errors import InvalidParameterError

__all__ = ["embed", "rerank"]

_POOLINGS = ("mean", "last", "cls")
_MAX_WIDTH = 1 << 22

TruncateOption = Annotated[
    bool,
    typer.Option(
        "--truncate", help="Cut off the end of texts that are too long, instead of an error."
    ),
]


def _known_pooling(value: str | None) -> str | None:
    if value is not None and value not in _POOLINGS:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(_POOLINGS)}")
    return value


def embed(
    model: ModelArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Texts; without any, each line of standard input is one.",
            show_default=False,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling",
            callback=_known_pooling,
            metavar="NAME",
            help="mean, last or cls. [default: what the model says, else mean]",
        ),
    ] = None,
    prompt_name: Annotated[
        str | None,
        typer.Option("--prompt-name", metavar="NAME", help="One of the model's prompts."),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions",
            callback=whole_number(_MAX_WIDTH),
            metavar="N",
            help="Only so many of the first elements, for models made for it.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Vectors as they are, not scaled to length 1.")
    ] = False,
    truncate: TruncateOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write a NumPy file (.npy) of float32 [texts, width]."
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    context: ContextOption = None,
) -> None:
    """Make vectors of texts.

    Prints one JSON array for each text, in their order, or writes all to a NumPy file.
    """
    given = texts or _lines()
    with open_model(model, settings_from(device, threads, context)) as llm:
        vectors = llm.embed(
            given,
            pooling=pooling,  # type: ignore[arg-type]  # checked above
            normalize=False if raw else None,
            prompt_name=prompt_name,
            dimensions=dimensions,
            truncate=truncate,
        )
    if out is not None:
        import numpy as np

        with out.open("wb") as file:
            np.save(file, vectors)
        return
    import json

    for vector in vectors:
        print(json.dumps([float(format(x, ".8g")) for x in vector.tolist()]))


def rerank(
    model: ModelArgument,
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="What is asked.", show_default=False)
    ],
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DOCUMENT]...",
            help="Texts; without any, each line of standard input is one.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", callback=whole_number(MAX_CONTEXT), metavar="N", help="Only so many, the best."
        ),
    ] = None,
    truncate: TruncateOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
) -> None:
    """Order documents by how well they answer a query.

    Needs a cross-encoder: a model with a head that scores pairs of texts.
    """
    given = documents or _lines()
    with open_model(model, settings_from(device, threads, context)) as llm:
        ranked = llm.rerank(query, given, top_n=top, truncate=truncate)
    if json:
        results: list[dict[str, Any]] = [
            {"index": r.index, "score": r.score, "document": given[r.index]} for r in ranked
        ]
        print_json({"model": model, "query": query, "results": results})
        return
    for r in ranked:
        print(f"{r.score:.6f}  {r.index}  {given[r.index]}")


def _lines() -> list[str]:
    """The lines of standard input.

    Raises:
        InvalidParameterError: there is no standard input, nothing in it, or it is not UTF-8.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidParameterError(
            "TEXT", "is missing", remedy="give texts as arguments, or lines on standard input"
        )
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameterError(
            "standard input", f"is not UTF-8 at byte {error.start}"
        ) from None
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise InvalidParameterError("standard input", "has no lines")
    return [line.removesuffix("\r") for line in lines]
