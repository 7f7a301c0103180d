"""``tether labels review``: decide about suspects in the browser."""

# Without postponed annotations: see tether.cli.app.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import say

if TYPE_CHECKING:
    from typer import Typer

NAME = "tether labels review"


def add(group: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @group.command(cls=cls)
    def review(
        run: Annotated[Path, Argument(metavar="RUN", help="run folder with labels/suspects.csv")],
        port: Annotated[
            int, Option(metavar="N", min=0, max=65535, help="first port to try [8765; 0: any]")
        ] = 8765,
        corrections: Annotated[
            Path | None,
            Option(metavar="FILE", help="where decisions go [RUN/labels/corrections.csv]"),
        ] = None,
        data: Annotated[
            str, Option(metavar="PATH", help="where the data are now, if they have moved")
        ] = "",
        browser: Annotated[
            bool | None,
            Option("--browser/--no-browser", help="open the page [on a terminal]"),
        ] = None,
        static: Annotated[
            bool, Option("--static", help="write one HTML file that downloads its decisions")
        ] = False,
        output: Annotated[
            Path | None,
            Option("--output", "-o", metavar="FILE", help="of --static [RUN/labels/review.html]"),
        ] = None,
        limit: Annotated[
            int, Option(metavar="N", min=1, help="suspects in the file of --static [500]")
        ] = 500,
    ) -> None:
        """Review suspects in the browser; every decision is saved at once."""
        with reported(NAME):
            _check_together(static, output, corrections)
            from tether.labels.review.suspects import open_review

            found = open_review(run, data=data)
            for warning in found.warnings:
                say(NAME, f"warning: {warning}")
            if static:
                from tether.labels.static_page import write_static_page

                print(write_static_page(found, output, limit=limit))
                return
            _serve(found, corrections, port, sys.stdout.isatty() if browser is None else browser)


def _check_together(static: bool, output: Path | None, corrections: Path | None) -> None:
    from tether.errors import ConfigError

    if output is not None and not static:
        raise ConfigError("--output names the file of --static; decisions go to --corrections FILE")
    if static and corrections is not None:
        raise ConfigError("--static downloads its decisions: give no --corrections")


def _serve(found: Any, corrections: Path | None, port: int, browser: bool) -> None:
    from tether.labels.review.serve import serve

    def ready(address: str, journal: Any) -> None:
        say(NAME, f"{len(found.suspects)} suspects; decisions go to {journal.path}")
        print(address, flush=True)
        say(NAME, "open this address on this machine; Ctrl+C ends the server")
        if browser:
            import webbrowser

            webbrowser.open(address)

    journal = serve(found, corrections=corrections, port=port, ready=ready)
    decided = sum(entry.decision != "skip" for entry in journal.state().values())
    say(NAME, f"{decided} of {len(found.suspects)} suspects decided, in {journal.path}")
    say(NAME, f"next: tether labels apply {journal.path} --data {found.data} -o NEW")
