"""``tether encode``: the distances of a finished run as radii for the next one."""

# Without postponed annotations: see tether.cli.app.

import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json, say

if TYPE_CHECKING:
    from typer import Typer

    from tether.encode.search import Found

COMMAND = "tether encode"
OUTPUT = "constraints.yaml"


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    @app.command(cls=cls)
    def encode(
        run: Annotated[Path, Argument(metavar="RUN", help="folder of a finished run")],
        ratio: Annotated[
            float, Option(metavar="X", help="share of the measured distances [0.5, >0]")
        ] = 0.5,
        head_ratio: Annotated[
            float,
            Option(metavar="X", help="share of the head's norm [inf: the head is free, >0]"),
        ] = math.inf,
        weights: Annotated[
            str, Option(metavar="WHICH", help="weights that are measured [best | last]")
        ] = "best",
        norm: Annotated[
            str, Option(metavar="NAME", help="of the distances and the constraint [fro | mars]")
        ] = "fro",
        output: Annotated[
            Path, Option("--output", "-o", metavar="FILE", help=f"YAML or JSON [{OUTPUT}]")
        ] = Path(OUTPUT),
        tune: Annotated[
            int | None,
            Option(metavar="N", help="search the ratio on the validation split in N runs [>=1]"),
        ] = None,
        method: Annotated[
            str,
            Option(
                metavar="NAME",
                help="with --tune: who takes the radii [layerwise_constraint | regsl]",
            ),
        ] = "layerwise_constraint",
        as_json: Annotated[bool, Option("--json", help="print the result as JSON")] = False,
    ) -> None:
        """Write how far each depth group of a run moved as radii for tether tune.

        With --tune, the ratio (and for regsl the start epochs) that validate best are searched.
        """
        with reported(COMMAND):
            from tether.encode.constraints import check_output

            check_output(output)
            given = {
                "ratio": ratio, "head_ratio": head_ratio, "weights": weights, "norm": norm
            }  # fmt: skip
            if tune is None:
                _encode(run, given, output, as_json)
            else:
                _search(run, given, output, tune, method, as_json)


def _encode(run: Path, given: dict[str, Any], output: Path, as_json: bool) -> None:
    from tether.encode import encode

    made = encode(run, **given)
    made.write(output)
    for line in _notes(run):
        say(COMMAND, line)
    if as_json:
        print_json({"file": str(output), **made.about(), "radii": made.radii})
        return
    print(output)


def _search(
    run: Path, given: dict[str, Any], output: Path, trials: int, method: str, as_json: bool
) -> None:
    from tether.encode.search import Search, write_found

    with redirect_stdout(sys.stderr):  # what libraries print is no result
        search = Search(run, method=method, say=lambda line: say(COMMAND, line), **given)
        found = search.run(trials)
    files = write_found(found, output, search.folder)
    if as_json:
        print_json(_as_json(found, files))
        return
    say(COMMAND, _summary(found))
    for path in files:
        print(path)


def _notes(run: Path) -> list[str]:
    """What a reader of the numbers should know of the run."""
    from tether.encode.search import REPLACED
    from tether.tuning.config import CONFIG_NAME, load_config
    from tether.tuning.method_spec import entry

    names = [entry(one)[0] for one in load_config(run / CONFIG_NAME).methods]
    bound = [name for name in names if name in REPLACED]
    if not bound:
        return []
    return [
        f"note: {bound[0]} acted in this run, so these are not the distances of free training; "
        "a plain run tells more"
    ]


def _summary(found: "Found") -> str:
    best = found.best
    more = "".join(f", {key} {value}" for key, value in best.options.items())
    return (
        f"best of {len(found.trials)}: ratio {best.ratio:.3g}{more}: validation {found.metric} "
        f"{best.value:.4f}; without constraints {found.measured:.4f}"
    )


def _as_json(found: "Found", files: list[Path]) -> dict[str, Any]:
    return {
        "files": [str(path) for path in files],
        **found.constraints.about(),
        "radii": found.constraints.radii,
        "metric": found.metric,
        "value": found.best.value,
        "without_constraints": found.measured,
        "options": found.best.options,
        "trials": [
            {"ratio": trial.ratio, **trial.options, "value": trial.value, "error": trial.error}
            for trial in found.trials
        ],
    }
