"""The commands put together, and what becomes of a usage error."""

# Without postponed annotations: typer reads those of the functions below, which name things that
# are imported beside them.

import io
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli import (
    average,
    compare,
    diagnose,
    doctor,
    encode,
    labels,
    methods,
    predict,
    report,
    tune,
)
from tether.cli.output import say
from tether.cli.panels import PanelHelp

if TYPE_CHECKING:
    from typer import Typer

COMMANDS = (tune, compare, average, predict, diagnose, encode, report, labels, methods, doctor)


def build() -> "Typer":
    """The application, with every command."""
    from typer import Context, Option, Typer
    from typer.core import TyperCommand, TyperGroup

    group = type("Group", (PanelHelp, TyperGroup), {})
    command = type("Command", (PanelHelp, TyperCommand), {})
    app = Typer(
        name="tether",
        cls=group,
        help="Regularised, robust fine-tuning of pretrained networks.",
        epilog="tether COMMAND --help says what a command takes.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from tether import __version__

            print(f"tether {__version__}")
            raise SystemExit(0)

    @app.callback(invoke_without_command=True)
    def top(
        ctx: Context,
        version: Annotated[
            bool,
            Option("--version", help="Show the version.", is_eager=True, callback=show_version),
        ] = False,
    ) -> None:
        if ctx.invoked_subcommand is None:
            ctx.command.format_help(ctx, ctx.make_formatter())

    for module in COMMANDS:
        module.add(app, command)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the words of a command line; gives the exit code."""
    from typer import Abort
    from typer.main import get_command

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name must not break a message
            stream.reconfigure(errors="replace")
    command: Any = get_command(build())
    try:
        code = command.main(args=arguments, prog_name="tether", standalone_mode=False)
    except SystemExit as stop:
        code = stop.code
    except Abort:
        say("tether", "interrupted")
        return 130
    except Exception as error:
        # A usage error, by what it has: typer ships its own click, or uses the installed one.
        if not hasattr(error, "format_message"):
            raise
        return _usage_error(error, sys.argv[1:] if arguments is None else arguments)
    return code if isinstance(code, int) else 0


def _usage_error(error: Any, words: Sequence[str]) -> int:
    """One line that says what was wrong with the words, and where they are explained."""
    ctx = getattr(error, "ctx", None)
    named = [
        word for word in words[:1] if word in {m.__name__.rpartition(".")[2] for m in COMMANDS}
    ]
    path = ctx.command_path if ctx is not None else " ".join(["tether", *named])
    message = " ".join(error.format_message().split()).rstrip(".")
    message = re.sub(r" \(Possible options: (.*)\)$", r": did you mean \1?", message)
    say(path, f"{message} (see {path} --help)")
    return 2
