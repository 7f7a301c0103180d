"""From a study to its runs: cases, arms (a method on a case), and the job of each run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

from tether.compare.entries import PROBE, Entry, Named
from tether.compare.episode_spec import Episodes, read_episodes
from tether.compare.space import Range
from tether.compare.study import Study
from tether.errors import ConfigError
from tether.tuning.config import load_config
from tether.tuning.method_spec import check_methods, entry, method_text
from tether.tuning.table import FIELDS

#: What every run has unless the study says otherwise: no model is kept, one checkpoint is.
RUN_DEFAULTS: dict[str, Any] = {"export": "none", "save_total_limit": 1}


@dataclass(frozen=True)
class Case:
    """A model on a data set with label noise and shots.

    Attributes:
        case_id: readable, unique in the study.
        model: the model.
        data: the data set.
        noise: label noise of the training data.
        shots: training samples a class, 0: all.
        settings: options of all its runs.
        episodes: what few-shot episodes are like; None: ordinary runs.
    """

    case_id: str
    model: Named
    data: Named
    noise: str
    shots: int
    settings: Mapping[str, Any]
    episodes: Episodes | None = None

    def as_row(self) -> dict[str, Any]:
        """What a row says of it."""
        shots = self.episodes.shot if self.episodes else self.shots
        return {
            "model": self.model.name, "data": self.data.name, "noise": self.noise,
            "shots": shots, "limit_train": int(self.settings.get("limit_train", 0)),
        }  # fmt: skip


def cases(study: Study) -> list[Case]:
    """Every model on every data set, with every noise and number of shots."""
    found = []
    for model in study.models:
        for data in study.data:
            for noise in study.noise:
                for shots in study.shots:
                    settings = {
                        **RUN_DEFAULTS, **study.settings, **model.settings, **data.settings,
                        "noise": noise, "shots": shots,
                    }  # fmt: skip
                    name = _case_id(study, model, data, noise, shots)
                    found.append(Case(name, model, data, noise, shots, settings))
    if not study.episodes:
        return found
    return [
        replace(
            case, case_id=f"{case.case_id}, {kind.way}-way {kind.shot}-shot",
            episodes=replace(kind, count=kind.count // len(study.seeds)),
        )
        for case in found for kind in read_episodes(study.episodes)
    ]  # fmt: skip


def _case_id(study: Study, model: Named, data: Named, noise: str, shots: int) -> str:
    parts = [data.name]
    if len(study.models) > 1:
        parts.append(model.name)
    if noise or len(study.noise) > 1:
        parts.append(noise or "clean")
    if shots or len(study.shots) > 1:
        parts.append(f"{shots} shots" if shots else "all samples")
    return ", ".join(parts)


@dataclass(frozen=True)
class Run:
    """One run of the plan.

    Attributes:
        case: where.
        entry: the method.
        kind: ``"trial"`` or ``"final"``.
        number: of the trial, or the seed.
        seed: of the run.
        settings: what was tuned, with the values of this run.
        past: curves of the trials that it may be pruned against.
    """

    case: Case
    entry: Entry
    kind: str
    number: int
    seed: int
    settings: Mapping[str, Any]
    past: tuple[Mapping[int, float], ...] = ()

    @property
    def id(self) -> str:
        """Names it in the study."""
        return run_id(self.case.case_id, self.entry.label, self.kind, self.number)

    def config(self) -> dict[str, Any]:
        """The options of its ``tether tune``, without the output folder."""
        return run_config(self.case, self.entry, self.settings, self.seed)


def run_id(case_id: str, label: str, kind: str, number: int) -> str:
    """Names a run in the study."""
    return f"{case_id} / {label} / {kind} {number}"


def run_config(case: Case, one: Entry, tuned: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Options of ``tether tune`` for a method on a case; later ones win over earlier ones."""
    options = {key: value for key, value in tuned.items() if "." not in key}
    methods = []
    for given in one.methods:
        name, own = entry(given)
        found = {
            key.partition(".")[2]: value
            for key, value in tuned.items()
            if key.startswith(f"{name}.")
        }
        methods.append(method_text(name, {**own, **found}))
    return {**case.settings, **one.settings, **options, "methods": methods, "seed": seed}


def run_key(study: Study, run: Run, fingerprints: Mapping[str, str]) -> str:
    """A hash of everything that decides what a run comes to."""
    parts = {
        "config": run.config(), "kind": run.kind, "score": study.score, "metric": study.metric,
        "threads": study.threads, "data": dict(fingerprints),
    }  # fmt: skip
    if run.case.model.features_of:
        parts["features_of"] = dict(run.case.model.features_of)
    if run.case.episodes:
        parts["episodes"] = asdict(run.case.episodes)
    text = json.dumps(parts, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=12).hexdigest()


# -- search spaces ---------------------------------------------------------------------------------


def own_space(one: Entry) -> dict[str, Range]:
    """Ranges of a method's options, by ``METHOD.option``: the registry's, then the entry's own.

    An option that the entry sets to a value is not tuned.
    """
    from tether.catalogue import method_info

    found: dict[str, Range] = {}
    for given in one.methods:
        name, fixed = entry(given)
        for option, values in method_info(name).search_space.items():
            if option not in fixed:
                found[f"{name}.{option}"] = tuple(values)
    found.update(one.space)
    return found


def shared_space(study: Study, one: Entry) -> dict[str, Range]:
    """Ranges of the training options but those for which the entry has a range or value."""
    return {
        key: value
        for key, value in study.space.items()
        if key not in one.space and key not in one.settings
    }


def default_values(case: Case, one: Entry) -> dict[str, Any]:
    """Option -> the value that it has without tuning."""
    from tether.catalogue import method_info

    found = {key: field.default for key, field in FIELDS.items()}
    found |= {**case.settings, **one.settings}
    for given in one.methods:
        name, _ = entry(given)
        for option, about in method_info(name).options.items():
            if about.default is not about.empty:
                found[f"{name}.{option}"] = about.default
    return found


# -- checks ----------------------------------------------------------------------------------------


def check_plan(study: Study) -> list[Case]:
    """The cases, after everything was checked that needs neither data nor model.

    Raises:
        ConfigError: an unknown method or option, with the nearest names; methods that cannot be
            combined; a range with values that an option does not take.
    """
    found = cases(study)
    for one in study.methods:
        try:
            _check_names(one)
            for tuned in _corners(study, one):
                check_methods(load_config(run_config(found[0], one, tuned, study.tuning_seed)))
            _check_conflicts(one)
        except ConfigError as error:
            hint = _known_labels(str(error))
            raise ConfigError(f"methods: {one.label}: {error}{hint}") from None
    for case in found:
        load_config(run_config(case, study.methods[0], {}, study.tuning_seed))
    return found


def _known_labels(message: str) -> str:
    return f"; '{PROBE}' and 'plain' are known, too" if "unknown method" in message else ""


def _check_names(one: Entry) -> None:
    from tether.catalogue import method_info

    for given in one.methods:
        try:
            method_info(entry(given)[0])
        except ValueError as error:
            raise ConfigError(f"{error} (tether methods lists all)") from None


def _corners(study: Study, one: Entry) -> Iterator[dict[str, Any]]:
    """Settings at both ends of every range."""
    ranges = {**shared_space(study, one), **own_space(one)}
    for end in (1, -1):
        yield {key: values[end] for key, values in ranges.items()}


def _check_conflicts(one: Entry) -> None:
    from tether.catalogue import method_info

    names = [entry(given)[0] for given in one.methods]
    for name in names:
        for other in method_info(name).conflicts:
            if names.count(other) > (other == name):  # a method may name itself: no two of it
                raise ConfigError(f"{name} and {other} cannot be combined")
