"""The program `tektra`: its commands, and how a run of it ends.

Commands are in files of their own, which import the engine only once they run. Exit codes: 0; 1 an
error that is explained on standard error; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tektra._version import __version__
from tektra.cli.bench import bench
from tektra.cli.doctor import doctor
from tektra.cli.imatrix import imatrix
from tektra.cli.light_options import lightened
from tektra.cli.perplexity import perplexity
from tektra.cli.quantize import quantize
from tektra.cli.render import abandon_output, prepare_streams, print_error, safe_text
from tektra.cli.run import run
from tektra.cli.show import show
from tektra.cli.vectors import embed, rerank
from tektra.errors import CancelledError, TektraError

__all__ = ["app", "main"]


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return lightened(super().get_params(ctx))


class _Commands(TyperGroup):
    """Ends every command's errors in a message and an exit code."""

    def get_params(self, ctx: Any) -> Any:
        return lightened(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            # what is still buffered must fail here, where it can be explained, not at exit
            sys.stdout.flush()
            return result
        except CancelledError:
            raise typer.Exit(130) from None
        except TektraError as error:
            print_error(error)
        except MemoryError:
            print_error(TektraError("out of memory", remedy="use a smaller model or context"))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _explain(error)
        raise typer.Exit(1)


def _explain(error: OSError) -> None:
    """Says what failed, and where: what has no file name is the output, in most cases."""
    where = error.filename if error.filename is not None else "input or output"
    print_error(TektraError(f"{where}: {error.strerror or error}"))
    abandon_output()


app = typer.Typer(
    name="tektra",
    cls=_Commands,
    help="Runs large language models on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help costs 0.1 s, one in rich's boxes three times as much and more width.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 130 stopped by Ctrl-C.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tektra {__version__}")
        raise typer.Exit


@app.callback()
def _tektra(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


for _command in (run, show, bench, perplexity, embed, rerank, quantize, imatrix, doctor):
    app.command(cls=_Command)(_command)


def main() -> None:
    """Entry point of the program; ends the process."""
    try:
        prepare_streams()
        warnings.showwarning = _show_warning
        app(prog_name="tektra")
    except TektraError as error:
        print_error(error)
        sys.exit(1)
    except OSError as error:  # from --help and the like; commands have theirs caught above
        _explain(error)
        sys.exit(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a person reads it, without the line of code that it came from."""
    print(f"warning: {safe_text(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    main()
