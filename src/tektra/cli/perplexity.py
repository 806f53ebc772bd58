"""`tektra perplexity`: how well a model predicts a text.

It shows; `perplexity_runner.py` says exactly what is computed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tektra.cli.options import (
    DeviceOption,
    JsonOption,
    KvTypeOption,
    ModelArgument,
    QuantOption,
    ThreadsOption,
    WindowOption,
)
from tektra.cli.render import is_terminal, print_json
from tektra.cli.session import open_model, settings_from
from tektra.errors import FormatError

if TYPE_CHECKING:
    from tektra.cli.perplexity_runner import Perplexity

__all__ = ["perplexity", "read_text"]

_MAX_FILE_BYTES = 1 << 30


def perplexity(
    model: ModelArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A text in UTF-8.", show_default=False)
    ],
    context: WindowOption = 512,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    kv_type: KvTypeOption = None,
    quant: QuantOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text.

    The text is cut into windows of N tokens, side by side. In each, the tokens of the second half
    are predicted from all before them in the window; where the model's tokenizer puts a beginning
    of sequence before a text, it takes the place of the window's first token. The result is
    exp(mean surprise of the predicted tokens); the standard error is that of the mean, carried
    over. A rest shorter than a window is left out. Figures of different tokenizers, or of
    different windows, cannot be compared.
    """
    from tektra.cli.perplexity_runner import measure_perplexity

    text = read_text(file)
    with open_model(model, settings_from(device, threads, context, kv_type)) as llm:
        result = measure_perplexity(llm, text, window=context, after_each=_show_running)
    if is_terminal(sys.stderr):
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    if json:
        print_json({"model": model, "file": str(file), **result.to_dict()})
    else:
        print(
            f"perplexity {result.perplexity:.4f} ± {result.standard_error:.4f}  "
            f"({result.scored_tokens:,} tokens in {result.windows:,} windows of {result.window:,})"
        )


def _show_running(result: Perplexity, windows: int) -> None:
    if is_terminal(sys.stderr):
        sys.stderr.write(
            f"\rwindow {result.windows} of {windows}: perplexity {result.perplexity:.4f}\x1b[K"
        )
        sys.stderr.flush()


def read_text(path: Path) -> str:
    """The text in a file of at most 1 GiB; `FormatError` where it is not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise FormatError(f"{path} is longer than 1 GiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not UTF-8 at byte {error.start}", remedy="convert the file to UTF-8"
        ) from None
