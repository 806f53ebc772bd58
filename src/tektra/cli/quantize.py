"""`tektra quantize`: writes a model in other types.

It shows; `tektra.quantize` decides and does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tektra.cli.options import JsonOption, ThreadsOption
from tektra.cli.progress_bar import progress_bar
from tektra.cli.render import print_json
from tektra.config import Settings

if TYPE_CHECKING:
    from tektra.quantize.job import Quantized

__all__ = ["quantize"]


def quantize(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A GGUF file, one file of a split one, or a directory with safetensors weights.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The GGUF file to write.", show_default=False)
    ],
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="NAME",
            help="A mix: q4_k_m, q8_0, iq4_xs, f16, ...",
            show_default=False,
        ),
    ],
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", metavar="FILE", help="Importance matrix (`tektra imatrix`)."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor",
            metavar="PATTERN=TYPE",
            help="Type of the matrices whose names match, as attn_v=q8_0 or 'blk.0.*=q6_k'; may "
            "be given several times, and the first that matches counts.",
        ),
    ] = None,
    output_type: Annotated[
        str | None, typer.Option("--output-type", metavar="TYPE", help="Of the output matrix.")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", metavar="TYPE", help="Of the embeddings.")
    ] = None,
    pure: Annotated[
        bool, typer.Option("--pure", help="All matrices get the mix' main type.")
    ] = False,
    threads: ThreadsOption = None,
    allow_requantize: Annotated[
        bool,
        typer.Option("--allow-requantize", help="Take weights that are quantized already."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a model in other types: quantize it, or convert it.

    The result is a GGUF file that llama.cpp loads too. OUT appears when it is complete; whatever
    ends the command before leaves nothing behind.
    """
    from tektra.quantize.job import quantize_model
    from tektra.quantize.recipe import Recipe

    recipe = Recipe.of(
        type_,
        overrides=tensor or (),
        output_type=output_type,
        embedding_type=embedding_type,
        pure=pure,
    )
    with progress_bar() as progress:
        result = quantize_model(
            source,
            target,
            recipe,
            imatrix=imatrix,
            threads=threads or Settings.from_environment().threads,
            allow_requantize=allow_requantize,
            force=force,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(_summary(result, written=not dry_run))
        return
    if dry_run:
        for info in result.tensors.values():
            print(f"{info.name:<40} {info.type.name:<8} {info.nbytes:>14,}")
    kinds = ", ".join(f"{count} {name}" for name, count in result.types.items())
    print(
        f"{'would write' if dry_run else 'wrote'} {result.path}: "
        f"{result.before / 2**20:,.1f} MiB -> {result.after / 2**20:,.1f} MiB, "
        f"{result.bits_per_weight:.2f} bits a weight ({kinds})"
    )
    if result.without_importance:
        print(
            f"without importance: {len(result.without_importance)} matrices, such as "
            f"{result.without_importance[0]}"
        )


def _summary(result: Quantized, *, written: bool) -> dict[str, object]:
    return {
        "path": str(result.path),
        "written": written,
        "type": result.recipe.mix,
        "bytes_before": result.before,
        "bytes_after": result.after,
        "bits_per_weight": round(result.bits_per_weight, 4),
        "tensors": {name: info.type.name for name, info in result.tensors.items()},
        "without_importance": list(result.without_importance),
    }
