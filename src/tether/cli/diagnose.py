"""``tether diagnose``: what is going wrong in a run, by which number, and what addresses it."""

# Without postponed annotations: see tether.cli.app.

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json, say
from tether.cli.settings import read_settings

if TYPE_CHECKING:
    from typer import Typer

SUBJECT, BUDGET, OUTPUT = "What", "How much", "Output"
EPILOG = (
    "Exit code 0, whatever the verdict. In brackets: the default, then what is allowed. What a "
    "run lacks (its data, its pretrained weights, labels) leaves out the measures that need it."
)


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=type("DiagnoseCommand", (cls,), {"help_panel": OUTPUT}), epilog=EPILOG)
    def diagnose(
        run: Annotated[
            Path | None, Argument(metavar="RUN", help="folder of a finished run")
        ] = None,
        against: Annotated[
            Path | None,
            Option(metavar="RUN2", help="show this run beside it", rich_help_panel=SUBJECT),
        ] = None,
        model: Annotated[
            str | None,
            Option(metavar="MODEL", help="a model instead of a run: its folder, or as for tune",
                   rich_help_panel=SUBJECT),
        ] = None,
        reference: Annotated[
            str | None,
            Option(metavar="FILE", help="weights it began with; a run knows its own",
                   rich_help_panel=SUBJECT),
        ] = None,
        data: Annotated[
            str | None,
            Option(metavar="DATA", help="what to measure on; a run knows its own",
                   rich_help_panel=SUBJECT),
        ] = None,
        weights: Annotated[
            str,
            Option(metavar="NAME", help="of a run [best | last | exported]",
                   rich_help_panel=SUBJECT),
        ] = "best",
        split: Annotated[
            str,
            Option(metavar="NAME", help="held-out samples of a run [validation | test]",
                   rich_help_panel=SUBJECT),
        ] = "validation",
        settings: Annotated[
            list[str] | None,
            Option("--set", metavar="KEY=VALUE", help="with --model: how to read the data",
                   rich_help_panel=SUBJECT),
        ] = None,
        samples: Annotated[
            int,
            Option(metavar="N", min=1, help="training and held-out samples, each [500, >=1]",
                   rich_help_panel=BUDGET),
        ] = 500,
        max_seconds: Annotated[
            float,
            Option(metavar="S", min=0, help="leave out what takes longer; 0: no limit [0, >=0]",
                   rich_help_panel=BUDGET),
        ] = 0.0,
        batch_size: Annotated[
            int,
            Option(metavar="N", min=1, help="samples of a forward [64, >=1]",
                   rich_help_panel=BUDGET),
        ] = 64,
        only: Annotated[
            list[str] | None,
            Option(metavar="STEP", help="take this step only; may be given several times",
                   rich_help_panel=BUDGET),
        ] = None,
        output: Annotated[
            Path | None,
            Option("--output", "-o", metavar="FOLDER", help="where to write [the run's folder]",
                   rich_help_panel=OUTPUT),
        ] = None,
        as_json: Annotated[
            bool, Option("--json", help="print diagnosis.json", rich_help_panel=OUTPUT)
        ] = False,
    ) -> None:  # fmt: skip
        """Measure a run, and say what is going wrong, by which number, and what addresses it.

        Writes diagnosis.json and report.html into the folder of the run.
        """
        with reported("tether diagnose"):
            from tether.diagnose.job import diagnose as work

            with redirect_stdout(sys.stderr):  # what libraries print is no result
                found, files = work(
                    run, against=against, model=model or "", reference=reference or "",
                    data=data or "", weights=weights, split=split, samples=samples,
                    max_seconds=max_seconds, batch_size=batch_size, only=only or (),
                    output=output, options=read_settings(settings), show=_show,
                    command=shlex.join(["tether", *_words()]),
                )  # fmt: skip
            if as_json:
                print_json(found.as_json())
                return
            for one in (found, found.against):
                if one is None:
                    continue
                if found.against is not None:
                    print(f"{one.name}:")
                for line in one.lines():
                    print(line)
            for file in files:
                print(file)


def _show(line: str) -> None:
    say("tether diagnose", line)


def _words() -> list[str]:
    """The command line as it was given; outside a process of the command only its name."""
    words = sys.argv[1:]
    return words if words[:1] == ["diagnose"] else ["diagnose"]
