"""``tether labels apply``: write data with the labels that were decided."""

# Without postponed annotations: see tether.cli.app.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import say

if TYPE_CHECKING:
    from typer import Typer

NAME = "tether labels apply"
_MOST_PAIRS = 8


def add(group: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @group.command(cls=cls)
    def apply(
        corrections: Annotated[
            Path, Argument(metavar="FILE", help="corrections.csv, or a CSV with id and label")
        ],
        data: Annotated[
            str, Option("--data", metavar="PATH", help="the data that were reviewed (required)")
        ],
        output: Annotated[
            Path,
            Option("--output", "-o", metavar="NEW", help="folder or file to write (required)"),
        ],
        run: Annotated[
            Path | None,
            Option(metavar="RUN", help="the run that was reviewed [the one FILE lies in]"),
        ] = None,
        include_test: Annotated[
            bool,
            Option("--include-test", help="change validation and test labels, too; tells scores"),
        ] = False,
        column: Annotated[
            str,
            Option(metavar="NAME", help="tables: a new column, not over the old labels"),
        ] = "",
        settings: Annotated[
            list[str] | None,
            Option("--set", metavar="KEY=VALUE", help="an option that differs from the run's"),
        ] = None,
    ) -> None:
        """Write a new data set with corrected labels; the old one stays as it is."""
        with reported(NAME):
            from tether.cli.settings import read_settings
            from tether.labels.apply import apply_corrections

            done = apply_corrections(
                corrections, data, output, run=run, include_test=include_test, column=column,
                overrides=read_settings(settings),
            )  # fmt: skip
            _tell(done, column)
            print(done.path)


def _tell(done: Any, column: str) -> None:
    from tether.words import printable

    planned = done.planned
    pairs = [
        f"{printable(a or '(none)', 30)} → {printable(b or '(none)', 30)} {n}"
        for a, b, n in planned.pairs()
    ]
    more = f", {len(pairs) - _MOST_PAIRS} other pairs" if len(pairs) > _MOST_PAIRS else ""
    say(NAME, f"{len(planned.changes)} labels changed: {', '.join(pairs[:_MOST_PAIRS])}{more}")
    say(NAME, f"{planned.kept} labels kept, {planned.skipped} skipped")
    if planned.protected:
        say(
            NAME,
            f"{len(planned.protected)} validation or test labels were left as they are: scores "
            "would no longer compare (--include-test changes them)",
        )
    if done.copied:
        say(NAME, f"{done.copied} files were copied: no hard links between these folders")
    for split, (before, after) in done.scores.items():
        say(
            NAME,
            f"warning: {split} labels were changed; the run's accuracy on {split} is {before:.4f} "
            f"with the labels before and {after:.4f} with those after: tell both",
        )
    if done.run is not None:
        label = f" --label-column {column}" if column else ""
        again = f"{done.run}-corrected"
        settings = f"--config {done.run / 'config.yaml'} --data {done.path}{label}"
        say(NAME, f"next: tether tune {settings} --output-dir {again}")
        say(NAME, f"then: tether report {done.run} {again}")
