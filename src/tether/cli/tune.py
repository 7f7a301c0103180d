"""``tether tune``: fine-tune a model; its options come from the table of :class:`TuneConfig`."""

# Without postponed annotations: see tether.cli.app.

import inspect
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.failures import reported
from tether.cli.output import print_json, rank, show_sections
from tether.cli.settings import read_settings
from tether.tuning.config import CONFIG_NAME, canonical, check_complete, load_config
from tether.tuning.table import ALIASES, FIELDS

if TYPE_CHECKING:
    from typer import Typer

    from tether.tuning.options import TuneConfig

PANEL = "This run"
#: An option of YAML only: nobody writes stages on a command line.
NO_FLAG = ("stages",)
METAVARS = {"int": "N", "float": "X", "str": "NAME"}
SIGNS = {"above": ">", "low": ">=", "high": "<="}
EPILOG = (
    "In brackets: the default, then what is allowed; of choices the first is the default. A flag "
    "wins over --set, which wins over the file."
)


def add(app: "Typer", cls: Any) -> None:
    """Enter the command, with a parameter for each option of the table."""

    def tune(**given: Any) -> None:
        """Fine-tune a pretrained model on data of your own.

        Give the options here, or in a YAML file that has the same names: tether tune run.yaml.
        """
        run(given)

    parameters = [*_arguments(), *_table_options(), *_own_options()]
    tune.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    tune.__annotations__ = {one.name: one.annotation for one in parameters}
    app.command(
        cls=type("TuneCommand", (cls,), {"help_panel": PANEL}),
        epilog=EPILOG,
        context_settings={"token_normalize_func": spelling},
    )(tune)


def spelling(flag: str) -> str:
    """An option's flag in its one spelling: ``--batch_size`` and aliases are understood, too.

    Example:
        >>> spelling("lr_scheduler_type")
        'lr-scheduler'
    """
    name = canonical(flag)
    known = name in FIELDS and (flag.replace("-", "_") in (name, *ALIASES) or "_" in flag)
    return flag_name(name) if known else flag


def flag_name(name: str) -> str:
    """The flag of an option, without its hyphens: one method a ``--method``."""
    return "method" if name == "methods" else name.replace("_", "-")


# -- parameters ------------------------------------------------------------------------------------


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _arguments() -> list[inspect.Parameter]:
    from typer import Argument

    about = Argument(metavar="CONFIG", help="YAML or TOML file with options", show_default=False)
    return [_parameter("config", Annotated[str | None, about])]


def _table_options() -> list[inspect.Parameter]:
    """Everything but switches comes as text, so that file and flag are read by the same rules."""
    from typer import Option

    made = []
    for name, field in FIELDS.items():
        if name in NO_FLAG:
            continue
        flag = f"--{flag_name(name)}"
        kind = str(field.type)
        several = field.metadata["many"] or kind.startswith("dict")
        annotation: Any = list[str] if several else bool if kind == "bool" else str
        option = Option(
            f"{flag}/--no-{flag_name(name)}" if kind == "bool" else flag,
            help=f"{field.metadata['help']}{_note(name)}",
            metavar=field.metadata["metavar"] or METAVARS.get(kind),
            rich_help_panel=field.metadata["group"],
            show_default=False,
        )
        made.append(_parameter(name, Annotated[annotation | None, option]))
    return made


def _note(name: str) -> str:
    """The default and what is allowed, in brackets."""
    field = FIELDS[name]
    default = getattr(load_config(), name)
    if field.metadata["choices"]:
        others = [choice for choice in field.metadata["choices"] if choice != default]
        return f" [{' | '.join([default, *others])}]"
    shown = [f"{default:g}" if isinstance(default, float) else str(default)]
    shown += [
        f"{sign}{field.metadata[key]:g}"
        for key, sign in SIGNS.items()
        if field.metadata[key] is not None
    ]
    if isinstance(default, bool):
        shown = ["yes" if default else "no"]
    return f" [{', '.join(shown)}]" if default not in ("", [], {}) or default is False else ""


def _own_options() -> list[inspect.Parameter]:
    from typer import Option

    def switch(name: str, flag: str, text: str) -> inspect.Parameter:
        option = Option(flag, help=text, rich_help_panel=PANEL, show_default=False)
        return _parameter(name, Annotated[bool, option], False)

    setting = Option(
        "--set", metavar="KEY=VALUE", help="any option by its name; may be given several times",
        rich_help_panel=PANEL, show_default=False,
    )  # fmt: skip
    return [
        _parameter("settings", Annotated[list[str] | None, setting]),
        switch("resume", "--resume", "go on with the run in --output-dir"),
        switch("overwrite", "--overwrite", "remove what is in --output-dir"),
        switch("dry_run", "--dry-run", "print the plan, and train nothing"),
        switch("as_json", "--json", "print the result as JSON"),
    ]


# -- the run ---------------------------------------------------------------------------------------


def run(given: dict[str, Any]) -> None:
    """What the command does with its options."""
    config: TuneConfig | None = None
    with reported("tether tune", lambda: None if config is None else _folder(config)):
        resume, overwrite = given.pop("resume"), given.pop("overwrite")
        dry_run, as_json = given.pop("dry_run"), given.pop("as_json")
        config = gather(given.pop("config"), given.pop("settings"), given, resume)
        check_complete(config)
        if dry_run:
            _show_plan(config, as_json, resume=resume, overwrite=overwrite)
            return
        from tether.tuning.job import tune

        with redirect_stdout(sys.stderr):  # what libraries print is no result
            result = tune(config, resume=resume, overwrite=overwrite, show=True)
        if rank():
            return
        if as_json:
            print_json(result.as_json())
        else:
            print(result.summary())


def gather(
    file: str | None, settings: list[str] | None, flags: Mapping[str, Any], resume: bool = False
) -> "TuneConfig":
    """The settings from a file, ``--set`` and flags; each wins over the one before.

    With ``--resume`` and nothing but the output folder the settings of the run in it are taken.
    """
    flags = {name: value for name, value in flags.items() if value not in (None, [])}
    chosen = {**read_settings(settings), **flags}
    source: Path | None = Path(file) if file is not None else None
    stored = Path(str(chosen.get("output_dir", ""))) / CONFIG_NAME
    named = "model" in chosen or "data" in chosen
    if source is None and resume and not named and "output_dir" in chosen and stored.is_file():
        source = stored
    return load_config(source, overrides=chosen)


def _folder(config: "TuneConfig") -> Path:
    from tether.tuning.run_folder import folder_of

    return folder_of(config)


def _show_plan(config: "TuneConfig", as_json: bool, **how: bool) -> None:
    from tether.tuning.plan import plan

    with redirect_stdout(sys.stderr):
        parts = plan(config, **how)
    if rank():
        return
    if as_json:
        print_json({heading: list(lines) for heading, lines in parts})
        return
    show_sections(parts)
