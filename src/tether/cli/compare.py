"""``tether compare``: methods compared fairly, from a command or a YAML file."""

# Without postponed annotations: see tether.cli.app.

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json
from tether.cli.settings import read_settings

if TYPE_CHECKING:
    from typer import Typer

PARTLY = 3
EPILOG = (
    "A flag wins over the file. Every method gets the same number of tuning trials, on a seed of "
    "their own and on the validation data; the test data are used once for each method and seed. "
    "The same command goes on with a comparison that was broken off. Exit code 3: it ended, and "
    "some runs failed."
)
#: Flags that are keys of the study; the others say how it is run.
KEYS = (
    "models", "data", "noise", "shots", "methods", "baseline", "seeds", "trials", "metric",
    "score", "threads", "leaks", "name",
)  # fmt: skip
#: Those, by their names in :class:`tether.compare.session.How`.
HOW = (
    "workers", "ray", "storage", "keep_runs", "new", "extend", "retry_failed", "markdown", "latex",
)  # fmt: skip


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Argument, Option

    def flag(*names: str, text: str, panel: str, metavar: str = "") -> Any:
        return Option(
            *names, help=text, rich_help_panel=panel, metavar=metavar or None, show_default=False
        )

    what, how = "What is compared", "How it is run"

    class Command(cls):  # type: ignore[misc]
        """``--ray`` may stand alone."""

        help_panel = how

        def parse_args(self, ctx: Any, args: list[str]) -> Any:
            return super().parse_args(ctx, ray_words(args))

    @app.command(cls=Command, epilog=EPILOG)
    def compare(
        study: Annotated[
            str | None,
            Argument(
                metavar="STUDY",
                help="YAML or TOML file, or the folder of a study",
                show_default=False,
            ),
        ] = None,
        models: Annotated[
            list[str] | None,
            flag("--model", text="as in tether tune; several", panel=what, metavar="MODEL"),
        ] = None,
        data: Annotated[
            list[str] | None,
            flag("--data", text="as in tether tune; several", panel=what, metavar="DATA"),
        ] = None,
        methods: Annotated[
            list[str] | None,
            flag(
                "--methods",
                "--method",
                text="plain, 'linear probe', NAME, NAME:key=value, A+B; separated by commas",
                panel=what,
                metavar="METHODS",
            ),
        ] = None,
        noise: Annotated[
            list[str] | None,
            flag("--noise", text="label noise; several", panel=what, metavar="NAME:RATE"),
        ] = None,
        shots: Annotated[
            list[int] | None,
            flag("--shots", text="training samples a class; several", panel=what, metavar="N"),
        ] = None,
        baseline: Annotated[
            str | None,
            flag(
                "--baseline",
                text="others are compared with it [plain]",
                panel=what,
                metavar="METHOD",
            ),
        ] = None,
        seeds: Annotated[
            str | None,
            flag(
                "--seeds",
                text="how many, or which, separated by commas [5]",
                panel=what,
                metavar="N",
            ),
        ] = None,
        trials: Annotated[
            int | None,
            flag("--trials", text="tuning trials of every method [10]", panel=what, metavar="N"),
        ] = None,
        space: Annotated[
            list[str] | None,
            flag(
                "--space",
                text="tune an option for all: lr=log(1e-4,1e-2); several [learning rate, epochs]",
                panel=what,
                metavar="KEY=RANGE",
            ),
        ] = None,
        settings: Annotated[
            list[str] | None,
            flag(
                "--set",
                text="an option of every run, as in tether tune; several",
                panel=what,
                metavar="KEY=VALUE",
            ),
        ] = None,
        metric: Annotated[
            str | None,
            flag(
                "--metric",
                text="what is compared [accuracy, map or mae]",
                panel=what,
                metavar="NAME",
            ),
        ] = None,
        score: Annotated[
            str | None,
            flag(
                "--score",
                text="weights of the last or the best epoch [last | best]",
                panel=what,
                metavar="WHICH",
            ),
        ] = None,
        threads: Annotated[
            int | None,
            flag("--threads", text="of every run [1]", panel=what, metavar="N"),
        ] = None,
        leaks: Annotated[
            str | None,
            flag(
                "--leaks",
                text="test samples in other splits [refuse | allow]",
                panel=what,
                metavar="WHAT",
            ),
        ] = None,
        name: Annotated[
            str | None,
            flag("--name", text="of the study [its folder's]", panel=what, metavar="NAME"),
        ] = None,
        output: Annotated[
            str | None,
            flag("--output", "-o", text="folder of the study", panel=how, metavar="STUDY"),
        ] = None,
        workers: Annotated[
            int | None,
            flag("--workers", text="processes; 0: this one [one a core]", panel=how, metavar="N"),
        ] = None,
        ray: Annotated[
            str | None,
            flag(
                "--ray",
                text="run on a Ray cluster; alone: on one that is started here",
                panel=how,
                metavar="[ADDRESS]",
            ),
        ] = None,
        storage: Annotated[
            str,
            flag(
                "--storage",
                text="database: a file, or postgresql://USER@HOST/NAME",
                panel=how,
                metavar="URL",
            ),
        ] = "",
        keep_runs: Annotated[
            bool, flag("--keep-runs", text="leave the run folders in STUDY/runs", panel=how)
        ] = False,
        new: Annotated[
            bool, flag("--new", text="remove the runs of another study there", panel=how)
        ] = False,
        extend: Annotated[
            bool,
            flag("--extend", text="add seeds, trials, methods or cases to a study", panel=how),
        ] = False,
        retry_failed: Annotated[
            bool, flag("--retry-failed", text="do failed runs again", panel=how)
        ] = False,
        report: Annotated[
            bool, flag("--report", text="only write the report of STUDY anew", panel=how)
        ] = False,
        markdown: Annotated[
            bool, flag("--markdown", text="write the tables as Markdown, too", panel=how)
        ] = False,
        latex: Annotated[
            bool, flag("--latex", text="write the tables as LaTeX, too", panel=how)
        ] = False,
        dry_run: Annotated[
            bool, flag("--dry-run", text="print the plan, and run nothing", panel=how)
        ] = False,
        as_json: Annotated[bool, flag("--json", text="print the rows as JSON", panel=how)] = False,
    ) -> None:
        """Compare methods fairly: equal tuning, the same seeds, one report.

        tether compare --model demo:digits --data demo:digits --methods plain,l2_sp -o studies/first
        """
        given = dict(locals())
        code = 0
        with reported("tether compare"):
            code = run(given)
        if code:
            raise SystemExit(code)


def ray_words(words: list[str]) -> list[str]:
    """``--ray`` without an address stands for a cluster on this machine.

    Example:
        >>> ray_words(["--ray", "-o", "x"]), ray_words(["--ray", "host:6379"])
        (['--ray', 'local', '-o', 'x'], ['--ray', 'host:6379'])
    """
    found = list(words)
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word == "--ray" and not (":" in following or following in ("auto", "local")):
            found.insert(place + 1, "local")
    return found


def run(given: Mapping[str, Any]) -> int:
    """What the command does with its options; gives the exit code."""
    from tether.compare.folder import STUDY_FILE
    from tether.errors import ConfigError

    source, output = given["study"], given["output"]
    if given["report"]:
        return _report(source or output, given)
    if source is not None and Path(source).is_dir():  # go on with what is in it
        output = output or source
        source = str(Path(source) / STUDY_FILE)
    overrides = {key: None if given[key] == [] else given[key] for key in KEYS}
    overrides["methods"] = _methods(given["methods"])
    overrides["settings"] = read_settings(given["settings"]) or None
    overrides["space"] = _pairs(given["space"])
    from tether.compare.study import load_study

    study = load_study(source, overrides, name=Path(output or "study").absolute().name)
    if given["dry_run"]:
        return _dry_run(study, given)
    if output is None:
        raise ConfigError("no output folder: give --output STUDY")
    from tether.compare.session import run_study

    with redirect_stdout(sys.stderr):  # what libraries print is no result
        result = run_study(study, output, tell=_tell, **{key: given[key] for key in HOW})
    _show(result, given["as_json"])
    return PARTLY if result.failed else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _methods(given: list[str] | None) -> list[str] | None:
    from tether.compare.entries import split_methods

    return [part for text in given for part in split_methods(text)] if given else None


def _pairs(given: list[str] | None) -> dict[str, str] | None:
    found = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals:
            from tether.errors import ConfigError

            raise ConfigError(f"--space {text}: write --space KEY=RANGE, as lr=log(1e-4,1e-2)")
        found[key.strip()] = value
    return found or None


def _dry_run(study: Any, given: Mapping[str, Any]) -> int:
    from tether.cli.output import show_sections
    from tether.compare.estimate import plan_sections

    with redirect_stdout(sys.stderr):
        sections = plan_sections(study, given["workers"])
    if given["as_json"]:
        print_json(dict(sections))
    else:
        show_sections(sections)
    return 0


def _report(folder: str | None, given: Mapping[str, Any]) -> int:
    from tether.compare.session import read_result, render
    from tether.errors import ConfigError

    if folder is None:
        raise ConfigError("--report: name the folder of the study")
    result = read_result(folder)
    with redirect_stdout(sys.stderr):
        render(result, markdown=given["markdown"], latex=given["latex"])
    _show(result, given["as_json"])
    return 0


def _show(result: Any, as_json: bool) -> None:
    from tether.compare.table import table_lines

    if as_json:
        print_json(result.rows)
        return
    for line in table_lines(result):
        print(line)
