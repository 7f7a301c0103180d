"""Diagnose a run or a model, and write what was found; make one page of several runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.diagnose.diagnosis import DIAGNOSIS_FILE, REPORT_FILE, Diagnosis, examine
from tether.diagnose.opening import kept_subject, model_subject, run_subject
from tether.errors import ConfigError
from tether.machine import describe_machine
from tether.tuning.options import TuneConfig
from tether.words import nearest


def diagnose(
    run: str | Path | None = None,
    *,
    against: str | Path | None = None,
    model: str | Path = "",
    reference: str = "",
    data: str = "",
    weights: str = "best",
    split: str = "validation",
    samples: int = 500,
    max_seconds: float = 0.0,
    batch_size: int = 64,
    only: Sequence[str] = (),
    output: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    show: Callable[[str], None] = lambda line: None,
    command: str = "",
) -> tuple[Diagnosis, list[Path]]:
    """Take every measure that can be taken, judge them, and write ``diagnosis.json`` and a page.

    Args:
        run: the folder of a finished run; or leave it out and give ``model`` and ``data``.
        against: another run, measured in the same way and shown beside it.
        model: a folder with a model that tether exported, or what ``--model`` of ``tether tune``
            takes, if it has a head for the classes of the data.
        reference: the weights that the model began with: a file, or a folder with one. A run
            knows its own; give it where they have moved.
        data: what is measured on; a run knows its own.
        weights: of a run: ``"best"``, ``"last"`` or ``"exported"``.
        split: of a run: ``"validation"`` or ``"test"``.
        samples: at most so many training and held-out samples, from 1.
        max_seconds: steps that would not end in this time are left out; 0: no limit.
        batch_size: samples of a forward, from 1.
        only: names of steps; empty: all of them.
        output: folder of the two files; by default the run's own, or ``diagnosis``.
        options: options on reading ``data`` for a model without a run, such as ``text_column``.
        show: is told what is being done.
        command: what the page says it was made by.

    Returns:
        the diagnosis, and the files that were written.

    Raises:
        ConfigError: what was asked for cannot be done; nothing was written.

    Example:
        >>> import tempfile
        >>> from tether.tuning.job import tune
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = tune({
        ...     "model": "demo:digits", "data": "demo:digits", "epochs": 1, "lr": 0.01,
        ...     "output_dir": folder.name + "/run",
        ... })
        >>> found, files = diagnose(folder.name + "/run", only=["scores", "distances"])
        >>> list(found.outcomes), [file.name for file in files]
        (['scores', 'distances'], ['diagnosis.json', 'report.html'])
        >>> folder.cleanup()
    """
    _check(run, model, data, samples, batch_size, max_seconds)
    shared: dict[str, Any] = {"weights": weights, "split": split, "samples": samples}
    limits: dict[str, Any] = {
        "max_seconds": max_seconds, "batch_size": batch_size, "only": tuple(only), "show": show,
    }  # fmt: skip
    if run is not None:
        subject = run_subject(run, data=data, reference=reference, **shared)
        folder = Path(output) if output else Path(run).expanduser()
    else:
        subject = model_subject(
            model, data=data, reference=reference, samples=samples, options=_options(options)
        )  # fmt: skip
        folder = Path(output) if output else Path("diagnosis")
    other = None if against is None else run_subject(against, **shared)
    found = examine(subject, **limits)
    if other is not None:
        show(f"against {other.name}")
        found.against = examine(other, **limits)
    return found, write(found, folder, command=command)


def _check(
    run: object, model: object, data: str, samples: int, batch_size: int, max_seconds: float
) -> None:  # fmt: skip
    if (run is None) == (not model):
        raise ConfigError("give the folder of a run, or --model and --data, not both and not none")
    if run is None and not data:
        raise ConfigError("--model needs --data: what is measured on")
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if not 0 <= max_seconds < float("inf"):
        raise ConfigError(f"max_seconds must be 0 or more, got {max_seconds}")


def _options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of reading data in their types.

    Raises:
        ConfigError: there is no such option, or it has another value.
    """
    from tether.tuning.config import load_config

    given = dict(options or {})
    config: TuneConfig = load_config(None, overrides=given)
    return {name: getattr(config, name) for name in given}


def write(found: Diagnosis, folder: Path, *, command: str = "") -> list[Path]:
    """Write both files into a folder.

    Args:
        found: what is written.
        folder: made where it is missing.
        command: what the page says it was made by.

    Raises:
        ConfigError: the folder is a file.
    """
    from tether.diagnose.page import make_page

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output {folder}: there is a file of this name; name a folder")
    page = make_page([found], command=command, footer=_footer())
    files = [folder / DIAGNOSIS_FILE, folder / REPORT_FILE]
    found.write(files[0])
    page.write(files[1])
    return files


def report(
    runs: Sequence[str | Path], output: str | Path = REPORT_FILE, *, command: str = ""
) -> Path:
    """One page of any number of runs side by side.

    A run that was diagnosed is shown with all its measures; of others what they wrote down.

    Args:
        runs: folders of finished runs, or of diagnoses, or ``diagnosis.json`` files.
        output: the HTML file.
        command: what the page says it was made by.

    Raises:
        ConfigError: no runs, or one that is neither finished nor diagnosed.
    """
    from tether.diagnose.page import make_page

    if not runs:
        raise ConfigError("there is nothing to show: give the folders of some runs")
    target = Path(output)
    if target.is_dir():
        raise ConfigError(f"output {target} is a folder: name an HTML file")
    found = []
    for run in runs:
        one = kept(run)
        one.against = None  # the runs that are named are shown, and no others
        found.append(one)
    command = command or shlex.join(["tether", "report", *map(str, runs), "-o", str(output)])
    return make_page(found, command=command, footer=_footer()).write(target)


def kept(run: str | Path) -> Diagnosis:
    """The diagnosis of a run, or what can be said of it without one.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(run).expanduser()
    file = path if path.is_file() else path / DIAGNOSIS_FILE
    if file.is_file():
        return Diagnosis.read(file)
    if not path.exists():
        others = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"{run}: no such folder{nearest(path.name, others)}")
    return examine(kept_subject(path))


def _footer() -> str:
    about = describe_machine()
    return (
        f"tether {about['tether']}, PyTorch {about['torch']}, {about['processor']}, "
        f"{about['cores']} cores."
    )
