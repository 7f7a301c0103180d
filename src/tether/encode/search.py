"""``tether encode RUN --tune N``: the ratio, and start epochs, that validate best in N runs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.encode.constraints import Constraints, encode
from tether.encode.profile import Profile, measured_profile
from tether.encode.turning import StartEpochs, recorded_losses, start_epochs
from tether.errors import ConfigError, Interrupted, TetherError
from tether.words import nearest

if TYPE_CHECKING:
    import optuna

    from tether.tuning.opened import OpenedRun
    from tether.tuning.options import TuneConfig
    from tether.tuning.result import Result

FOLDER = "encode"
#: Methods that take the radii.
METHODS = ("layerwise_constraint", "regsl")
#: Methods of the measured run that the constraint takes the place of.
REPLACED = ("layerwise_constraint", "distance_constraint", "regsl")
#: Range of the ratio; the first trials lie in its middle and on either side of it.
LOW, HIGH = 0.1, 2.0
FIRST = (1.0, 0.25)


@dataclass(frozen=True)
class Trial:
    """One run of the search.

    Attributes:
        number: counted from 0.
        ratio: share of the measured distances.
        options: further options of the method (start epochs).
        value: validation metric of its best epoch; None where it failed.
        folder: its run folder, which is kept for the best one only.
        error: why it failed.
    """

    number: int
    ratio: float
    options: dict[str, Any]
    value: float | None
    folder: Path
    error: str = ""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        constraints: the radii of the best trial.
        best: that trial.
        trials: all of them.
        metric: the validation metric.
        measured: its value in the run that was measured, without constraints.
        config: settings of the best trial, ready to run.
        starts: start epochs from the history; None where the method has none.
    """

    constraints: Constraints
    best: Trial
    trials: list[Trial]
    metric: str
    measured: float
    config: TuneConfig
    starts: StartEpochs | None


class Search:
    """A search that goes on where it was broken off.

    Args:
        run: the run that was measured.
        method: ``"layerwise_constraint"`` or ``"regsl"``.
        ratio: of the first trial.
        head_ratio: share of the head's norm; infinite leaves it free.
        weights: ``"best"`` or ``"last"``.
        norm: ``"fro"`` or ``"mars"``.
        say: told a line of progress after each trial.

    Raises:
        ConfigError: no finished run, a run of several stages, an unknown method.
    """

    def __init__(
        self, run: str | Path, *, method: str = "layerwise_constraint", ratio: float = 0.5,
        head_ratio: float = float("inf"), weights: str = "best", norm: str = "fro",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        from tether.tuning.metrics import LESS
        from tether.tuning.opened import open_run

        if method not in METHODS:
            hint = nearest(method, METHODS)
            raise ConfigError(f"option method: {' or '.join(METHODS)}, not {method!r}{hint}")
        self.opened: OpenedRun = open_run(run, weights=weights)
        if self.opened.config.stages:
            raise ConfigError(
                f"run {run} has stages; a search repeats a run of one: encode it without --tune "
                "and put the radii into the stage that they are meant for"
            )
        self.method, self.ratio, self.head_ratio, self.say = method, ratio, head_ratio, say
        #: Told the result of each trial that ended well.
        self.after: Callable[[Trial, Result], None] = lambda trial, result: None
        self.profile: Profile = measured_profile(self.opened, weights=weights, norm=norm)
        self.constraints(ratio)  # says what is wrong before anything is written
        self.metric = self.opened.result.metric
        self.less = self.metric in LESS
        self.folder = self.opened.path / FOLDER
        self.starts: StartEpochs | None = None
        if method == "regsl":
            losses = recorded_losses(self.opened.path)
            self.starts = start_epochs(self.opened.history, self.metric, losses)

    def constraints(self, ratio: float) -> Constraints:
        """The radii of a ratio."""
        return encode(self.profile, ratio=ratio, head_ratio=self.head_ratio)

    def config(self, ratio: float, options: Mapping[str, Any], folder: Path) -> TuneConfig:
        """Settings of the measured run, with the constraint."""
        from tether.tuning.method_spec import entry

        before = self.opened.config
        kept = [one for one in before.methods if entry(one)[0] not in REPLACED]
        made = self.constraints(ratio)
        own = {"radii": made.radii, **made.norm_option, **options}
        return replace(before, methods=[*kept, {self.method: own}], output_dir=str(folder))

    # -- trials ----------------------------------------------------------------------------------

    def run(self, trials: int) -> Found:
        """Make the trials that are left; those of an earlier call with the same choices count.

        Args:
            trials: how many runs there are to be in all, at least 1.

        Raises:
            ConfigError: the number is below 1, or another search is at work in the folder.
            TetherError: every trial failed.
            Interrupted: a signal came; the same call goes on.
        """
        if trials < 1:
            raise ConfigError(f"option tune: at least 1 trial, not {trials}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone(), _quiet():
            study = self._study()
            while len(self._done(study)) < trials:
                self._one(study, trials)
            done = self._done(study)
        made = [trial for trial in done if trial.value is not None]
        if not made:
            raise TetherError(f"all {len(done)} trials failed; the last one: {done[-1].error}")
        best = self._best(made)
        return Found(
            self.constraints(best.ratio), best, done, self.metric,
            self.opened.result.best["validation"][self.metric],
            self.config(best.ratio, best.options, self._next_folder()), self.starts,
        )  # fmt: skip

    def _next_folder(self) -> Path:
        path = self.opened.path
        return path.with_name(f"{path.name}-encoded")

    def _one(self, study: optuna.Study, trials: int) -> None:
        from tether.tuning.job import tune

        number = len(self._done(study))
        first = self._first()
        # what is tried follows from what is done, also after a break
        study.sampler = self._sampler(number)
        if number < len(first) and not study.get_trials(states=(_states().WAITING,)):
            study.enqueue_trial(first[number])
        trial = study.ask()
        ratio = trial.suggest_float("ratio", LOW, HIGH, log=True)
        options = self._start_options(trial)
        folder = self._trial_folder(study, trial.number)
        shutil.rmtree(folder, ignore_errors=True)
        config = replace(
            self.config(ratio, options, folder), export="none", save_total_limit=0,
            report_to="none",
        )  # fmt: skip
        try:
            result = tune(config)
            value = result.best["validation"][self.metric]
            if value != value:
                raise TetherError(f"{self.metric} is not a number")
            study.tell(trial, value)
            self.after(Trial(trial.number, ratio, options, value, folder), result)
            told = f"{self.metric} {value:.4f}"
        except Interrupted as stop:
            text = "the finished trials are kept; the same command goes on"
            raise Interrupted(stop.signum, text) from None
        except ConfigError:
            raise
        except TetherError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=_states().FAIL)
            told = f"failed: {error}"
        also = "".join(f", {key} {value}" for key, value in options.items())
        self.say(f"trial {number + 1}/{trials}: ratio {ratio:.3g}{also}: {told}")
        self._clear(study)

    def _start_options(self, trial: optuna.Trial) -> dict[str, Any]:
        """Start epochs round the measured turning point."""
        if self.starts is None:
            return {}
        last = self.starts.turning
        first = trial.suggest_int("reweighting_start_epoch", 1, max(last, 2))
        gap = trial.suggest_int("correction_after", 1, max(last, 2))
        return {"reweighting_start_epoch": first, "correction_start_epoch": first + gap}

    def _first(self) -> list[dict[str, Any]]:
        """What is tried before the sampler knows anything."""
        own: dict[str, Any] = {}
        if self.starts is not None:
            own["reweighting_start_epoch"] = self.starts.reweighting
            own["correction_after"] = self.starts.correction - self.starts.reweighting
        ratios = dict.fromkeys((self.ratio, *FIRST))
        return [{"ratio": ratio, **own} for ratio in ratios if LOW <= ratio <= HIGH]

    def _sampler(self, done: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(
            seed=self.opened.config.seed + done, n_startup_trials=len(self._first())
        )

    # -- the study -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Follows from all that the trials depend on, so that other choices are another study."""
        p = self.profile
        facts = [
            self.method, str(self.head_ratio), p.norm, p.weights, p.epoch, p.distances, p.head,
            self.ratio,
        ]  # fmt: skip
        return sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _study(self) -> optuna.Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(str(self.folder / "study.log"))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend), study_name=self.name,
            direction="minimize" if self.less else "maximize", load_if_exists=True,
        )  # fmt: skip
        for stale in study.get_trials(states=(_states().RUNNING,)):  # broken off: made again
            study.tell(stale.number, state=_states().FAIL)
        return study

    def _done(self, study: optuna.Study) -> list[Trial]:
        """Trials that ended, well or not; those that were broken off are made again."""
        found = []
        for one in study.get_trials(deepcopy=False):
            error = one.user_attrs.get("error", "")
            if one.state != _states().COMPLETE and not error:
                continue
            options = {key: value for key, value in one.params.items() if key != "ratio"}
            if "correction_after" in options:
                gap = options.pop("correction_after")
                options["correction_start_epoch"] = options["reweighting_start_epoch"] + gap
            folder = self._trial_folder(study, one.number)
            found.append(Trial(one.number, one.params["ratio"], options, one.value, folder, error))
        return found

    def _best(self, trials: list[Trial]) -> Trial:
        """The first of those with the best value."""
        sign = 1.0 if self.less else -1.0
        return min(trials, key=lambda one: (sign * float(one.value or 0.0), one.number))

    def _trial_folder(self, study: optuna.Study, number: int) -> Path:
        return self.folder / f"{study.study_name}-{number:03d}"

    def _clear(self, study: optuna.Study) -> None:
        """Remove the folders of all trials but the best."""
        made = [trial for trial in self._done(study) if trial.value is not None]
        best = self._best(made).folder if made else None
        for folder in self.folder.glob(f"{study.study_name}-*"):
            if folder != best:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One search a folder: another one's trials would be taken for broken off."""
        from tether.tuning.run_folder import LOCK_FILE, locked

        with open(self.folder / LOCK_FILE, "a") as file:
            if not locked(file):
                raise ConfigError(f"{self.folder}: another search is at work there")
            yield


def write_found(found: Found, output: Path, folder: Path) -> list[Path]:
    """Write the constraints and settings that are ready to run.

    Args:
        found: of a search.
        output: file of the radii.
        folder: where ``tune.yaml`` goes.

    Returns:
        The files.
    """
    from tether.files import write_text
    from tether.tuning.config import dump_config

    found.constraints.write(output)
    settings = folder / "tune.yaml"
    head = (
        f"# The best of {len(found.trials)} trials of tether encode: validation {found.metric} "
        f"{found.best.value:.4f}\n# with ratio {found.best.ratio:.4g}; without constraints "
        f"{found.measured:.4f}. Run it with: tether tune {settings}\n"
    )
    write_text(settings, head + dump_config(found.config))
    return [output, settings]


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says every trial by itself; we do."""
    from tether.optional import require

    require("optuna", "sweep", "searching a ratio")
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
