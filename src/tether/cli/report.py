"""``tether report``: one page of any number of runs, side by side."""

# Without postponed annotations: see tether.cli.app.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported

if TYPE_CHECKING:
    from typer import Typer


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=cls)
    def report(
        runs: Annotated[
            list[Path],
            Argument(metavar="RUN", help="folders of runs, best after tether diagnose"),
        ],
        output: Annotated[
            Path, Option("--output", "-o", metavar="FILE", help="HTML to write [report.html]")
        ] = Path("report.html"),
    ) -> None:
        """Write one page of several runs side by side, from what they hold.

        A run that tether diagnose has measured is shown in full; of others what they wrote down.
        """
        with reported("tether report"):
            from tether.diagnose.job import report as work

            print(work(runs, output))
