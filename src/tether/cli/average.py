"""``tether average``: average the weights of finished runs, and write an ordinary model."""

# Without postponed annotations: see tether.cli.app.

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json, say
from tether.errors import ConfigError

if TYPE_CHECKING:
    from typer import Typer

EPILOG = "In brackets: the default, then what is allowed; of choices the first is the default."


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=cls, epilog=EPILOG)
    def average(
        runs: Annotated[
            list[Path],
            Argument(metavar="RUN", help="folders of finished runs, or a study that kept its runs"),
        ],
        alpha: Annotated[
            str,
            Option(metavar="X[,X…]", help="one run: share of the tuned weights, the rest of the "
                   "start; of several the best on validation [0,0.1,…,1]"),
        ] = "",
        soup: Annotated[
            str, Option(metavar="NAME", help="several runs [greedy | uniform]")
        ] = "",
        weights: Annotated[
            str, Option(metavar="NAME", help="of the runs [best | last | exported]")
        ] = "best",
        head: Annotated[
            str, Option(metavar="NAME", help="with --alpha: the tuned head [keep | interpolate]")
        ] = "keep",
        batch_norm: Annotated[
            str, Option(metavar="NAME", help="running statistics [estimate | average]")
        ] = "estimate",
        output: Annotated[
            Path | None,
            Option("--output", "-o", metavar="FOLDER", help="what to write [RUN/average; soup]"),
        ] = None,
        batch_size: Annotated[
            int, Option(metavar="N", min=1, help="samples of a forward [64, >=1]")
        ] = 64,
        device: Annotated[
            str, Option(metavar="NAME", help="where to compute [auto | cpu | cuda]")
        ] = "auto",
        as_json: Annotated[bool, Option("--json", help="print average.json")] = False,
    ) -> None:  # fmt: skip
        """Average a run with the weights it began with, or several runs with one another.

        Writes FOLDER/model, which loads as every exported model, and FOLDER/average.json.
        """
        with reported("tether average"):
            from tether.average.job import average_runs

            with redirect_stdout(sys.stderr):  # what libraries print is no result
                found = average_runs(
                    runs, alpha=_numbers(alpha), soup=soup, weights=weights, head=head,
                    batch_norm=batch_norm, output=output, batch_size=batch_size, device=device,
                    tell=lambda line: say("tether average", line),
                )  # fmt: skip
            if as_json:
                print_json(found.as_json())
            else:
                print(found.summary())


def _numbers(text: str) -> list[float]:
    """Numbers separated by commas.

    Raises:
        ConfigError: something else.
    """
    try:
        return [float(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise ConfigError(f"--alpha {text}: give numbers in [0, 1], separated by commas") from None
