"""The commands' common ground: the typer application, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer
from typer.main import get_command

from napari_noisylabel import __version__
from napari_noisylabel.errors import NoisyLabelError

INTERRUPTED = 130
PROGRAM = "noisylabel"

# typer has carried click inside itself since 0.20; before, it was a package of its own
ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name=PROGRAM,
    help="Find and repair wrong masks in medical images: open, score, propose, review, retrain, export.",
    epilog="Not a medical device: for research and for curating data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Say the version."),
) -> None:
    pass


def sort_commands(*names: str) -> None:
    """List the commands in this order: that of the flow, not of the modules."""
    app.registered_commands.sort(key=lambda info: names.index(info.name or info.callback.__name__))  # type: ignore[union-attr]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    try:
        code = get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except NoisyLabelError as error:
        return _refuse(str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _refuse("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever reads has read enough
        sys.stderr.close()
        return 0
    except ClickException as error:
        return _refuse_arguments(error)
    except Exception:
        traceback.print_exc()
        return 1


def _refuse(message: str, code: int) -> int:
    typer.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    return code


def _refuse_arguments(error: BaseException) -> int:
    """Typer's own message in one line, with where help is."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context else "", err=True)
        return 2
    path = context.command_path if context is not None else PROGRAM
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return _refuse(f"{message}. See `{path} --help`.", 2)
