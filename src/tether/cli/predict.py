"""``tether predict``: a finished run's answers for new data."""

# Without postponed annotations: see tether.cli.app.

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import rank, say
from tether.cli.settings import read_settings

if TYPE_CHECKING:
    from typer import Typer


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=cls)
    def predict(
        run: Annotated[Path, Argument(metavar="RUN", help="run folder, or its model/")],
        data: Annotated[
            str, Argument(metavar="DATA", help="as for tether tune; labels not needed")
        ],
        output: Annotated[
            Path | None,
            Option("--output", "-o", metavar="FILE", help="CSV to write [predictions.csv]"),
        ] = None,
        batch_size: Annotated[
            int, Option(metavar="N", min=1, help="samples of a forward [64, >=1]")
        ] = 64,
        device: Annotated[
            str, Option(metavar="NAME", help="where to compute [auto | cpu | cuda]")
        ] = "auto",
        settings: Annotated[
            list[str] | None,
            Option("--set", metavar="KEY=VALUE", help="an option that differs from the run's"),
        ] = None,
    ) -> None:
        """Write a run's predictions for new data to a CSV file."""
        with reported("tether predict"), warnings.catch_warnings():
            # What was left out is told like any other message, not as a line of our source.
            warnings.showwarning = lambda message, *rest: say("tether predict", str(message))
            from tether.models.predict import predict as work

            path = work(
                run, data, output=output, batch_size=batch_size, device=device,
                overrides=read_settings(settings),
            )  # fmt: skip
            if rank() == 0:
                print(path)
