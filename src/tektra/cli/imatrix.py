"""`tektra imatrix`: measures which inputs of a model's matrices matter.

It shows; `tektra.quantize.collect` measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tektra.cli.options import JsonOption, WindowOption, whole_number
from tektra.cli.perplexity import read_text
from tektra.cli.progress_bar import progress_bar
from tektra.cli.render import print_json
from tektra.errors import InvalidParameterError

__all__ = ["imatrix"]


def imatrix(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file or a directory with safetensors weights.",
            show_default=False,
        ),
    ],
    texts: Annotated[
        list[Path], typer.Argument(metavar="TEXT...", help="Texts in UTF-8.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FILE", help="To write.", show_default=False),
    ],
    context: WindowOption = 512,
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            callback=whole_number(1 << 30),
            metavar="N",
            help="Most windows that are read. [default: all]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure which inputs of a model's matrices matter, for `tektra quantize --imatrix`.

    The model reads the texts in windows of N tokens, in float32; the squares of what goes into each
    matrix are added up. FILE has llama.cpp's form of an importance matrix.
    """
    from tektra.quantize.collect import collect_importance

    if out.exists() and not force:
        raise InvalidParameterError(
            "out", f"{out} is there already", remedy="give --force to replace it"
        )
    given = [(path.name, read_text(path)) for path in texts]
    with progress_bar() as progress:
        matrix = collect_importance(
            model, given, window=context, max_windows=windows, progress=progress
        )
    matrix.write(out)
    summary = {
        "path": str(out),
        "entries": len(matrix.entries),
        "windows": matrix.num_chunks,
        "window": matrix.chunk_size,
    }
    if json:
        print_json(summary)
    else:
        print(
            f"wrote {out}: {len(matrix.entries)} matrices, {matrix.num_chunks:,} windows of "
            f"{matrix.chunk_size:,} tokens"
        )
