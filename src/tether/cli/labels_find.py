"""``tether labels find``: rank a run's training samples by how probably their label is wrong."""

# Without postponed annotations: see tether.cli.app.

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json, say

if TYPE_CHECKING:
    from typer import Typer

NAME = "tether labels find"


def add(group: "Typer", cls: Any) -> None:
    """Enter the subcommand."""
    from typer import Argument, Option

    @group.command(cls=cls)
    def find(
        run: Annotated[Path, Argument(metavar="RUN", help="run folder of tether tune")],
        output: Annotated[
            Path | None,
            Option("--output", "-o", metavar="FILE", help="CSV to write [RUN/labels/suspects.csv]"),
        ] = None,
        pred_probs: Annotated[
            Path | None,
            Option(metavar="FILE", help="out-of-fold probabilities of any classifier, one row a "
                   "training sample (.npy, .npz, .csv): then only these count"),
        ] = None,
        folds: Annotated[
            int | None,
            Option(metavar="K", min=2, help="only classifiers on the pretrained features count, "
                   "cross-validated in K folds; no record of training is needed"),
        ] = None,
        top: Annotated[
            int | None, Option(metavar="N", min=1, help="write the first N only [all]")
        ] = None,
        seed: Annotated[int, Option(metavar="N", min=0, help="of folds and draws [0]")] = 0,
        as_json: Annotated[bool, Option("--json", help="print the summary as JSON")] = False,
    ) -> None:  # fmt: skip
        """Rank training samples by the probability that their label is wrong."""
        with reported(NAME):
            from tether.labels.find import find as work

            found = work(run, output=output, pred_probs=pred_probs, folds=folds, top=top, seed=seed)
            if as_json:
                print_json({**found.summary, "path": str(found.path)})
                return
            say(NAME, _sentence(found.summary))
            print(found.path)


def _sentence(summary: dict[str, Any]) -> str:
    low_high = summary.get("noise_rate_interval")
    between = f" ({low_high[0]:.1%} to {low_high[1]:.1%})" if low_high else ""
    return (
        f"{summary['suspects']} of {summary['samples']} labels are probably wrong; noise rate "
        f"{summary['noise_rate']:.1%}{between}"
    )
