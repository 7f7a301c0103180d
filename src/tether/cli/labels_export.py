"""``tether labels export``: suspects and decisions for other tools."""

# Without postponed annotations: see tether.cli.app.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import say

if TYPE_CHECKING:
    from typer import Typer

NAME = "tether labels export"


def add(group: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @group.command(cls=cls)
    def export(
        run: Annotated[Path, Argument(metavar="RUN", help="run folder with labels/suspects.csv")],
        output: Annotated[
            Path, Option("--output", "-o", metavar="FILE", help="file to write (required)")
        ],
        form: Annotated[
            str, Option("--format", metavar="NAME", help="[csv | label-studio]")
        ] = "csv",
        corrections: Annotated[
            Path | None,
            Option(metavar="FILE", help="decisions to tell, too [RUN/labels/corrections.csv]"),
        ] = None,
        embed: Annotated[
            bool, Option("--embed", help="Label Studio: pictures in the file, not their paths")
        ] = False,
        root: Annotated[
            Path | None,
            Option(metavar="FOLDER", help="Label Studio: its folder of local files [the data]"),
        ] = None,
        data: Annotated[
            str, Option(metavar="PATH", help="where the data are now, if they have moved")
        ] = "",
        limit: Annotated[
            int | None, Option(metavar="N", min=1, help="suspects to write [all]")
        ] = None,
    ) -> None:
        """Write suspects and decisions as a plain CSV, or as tasks for Label Studio."""
        with reported(NAME):
            from tether.labels.exports import export as work
            from tether.labels.review.suspects import open_review

            review = open_review(run, data=data)
            for warning in review.warnings:
                say(NAME, f"warning: {warning}")
            for path in work(
                review, output, form=form, corrections=corrections, embed=embed, root=root,
                limit=limit,
            ):  # fmt: skip
                print(path)
