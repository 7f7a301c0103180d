"""One method on one case: its tuning trials in waves, then its runs on every seed.

What may be done next follows from what the storage holds, and from nothing else: an arm is made
anew whenever the comparison is started, and asks for the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.compare.entries import Entry
from tether.compare.plan import Case, Run, default_values, own_space, run_id, shared_space
from tether.compare.storage import Stored
from tether.compare.study import Study
from tether.compare.suggest import STARTUP, Past, suggest, tenths

Known = Mapping[str, Stored]


class Arm:
    """A method on a case.

    Args:
        study: the study.
        case: the case.
        one: the method.
        metric: what is tuned for.
        higher: whether more of it is better.
    """

    def __init__(self, study: Study, case: Case, one: Entry, metric: str, higher: bool) -> None:
        self.study, self.case, self.entry = study, case, one
        self.metric, self.higher = metric, higher
        self.shared, self.own = shared_space(study, one), own_space(one)
        self.defaults = default_values(case, one)
        #: With nothing to tune one trial is as good as many.
        self.trials = study.trials if self.shared or self.own else 0
        self._past: list[Past] = []
        self._asked: dict[int, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.case.case_id} / {self.entry.label}"

    def ids(self) -> list[str]:
        """Every run that the plan holds, in order."""
        return [self._id("trial", n) for n in range(self.trials)] + [
            self._id("final", seed) for seed in self.study.seeds
        ]

    def _id(self, kind: str, number: int) -> str:
        return run_id(self.case.case_id, self.entry.label, kind, number)

    # -- tuning --------------------------------------------------------------------------------

    def _waves(self) -> list[range]:
        """Trials that do not look at each other: the first few, then a wave after another."""
        first = min(STARTUP, self.trials)
        later = range(first, self.trials, self.study.wave)
        waves = [range(first)] if first else []
        return waves + [range(n, min(n + self.study.wave, self.trials)) for n in later]

    def due(self, known: Known) -> list[Run]:
        """The runs that may be begun now, and have not ended."""
        self._past = []
        for wave in self._waves():
            stored = {n: known.get(self._id("trial", n)) for n in wave}
            left = [n for n, one in stored.items() if one is None or one.row is None]
            if left:
                curves = self._curves() if self.study.prune else ()
                return [
                    self._run("trial", n, self.study.tuning_seed, self._settings(n, known), curves)
                    for n in left
                ]
            self._past += [self._ended(one) for one in stored.values() if one is not None]
        chosen = self.chosen(known)
        if chosen is None:
            return []
        runs = [self._run("final", seed, seed, chosen, ()) for seed in self.study.seeds]
        return [run for run in runs if not self._has(known.get(run.id))]

    @staticmethod
    def _has(stored: Stored | None) -> bool:
        return stored is not None and stored.row is not None

    def _settings(self, number: int, known: Known) -> Mapping[str, Any]:
        """What a trial tries: what it was claimed with, else what the sampler suggests."""
        stored = known.get(self._id("trial", number))
        if stored is not None:
            return stored.settings
        if number not in self._asked:
            self._asked[number] = suggest(
                self.shared, self.own, self.defaults, self._past, number=number,
                case=self.case.case_id, method=self.entry.label, seed=self.study.tuning_seed,
                higher=self.higher,
            )  # fmt: skip
        return self._asked[number]

    def _run(
        self, kind: str, number: int, seed: int, settings: Mapping[str, Any],
        past: tuple[Mapping[int, float], ...],
    ) -> Run:  # fmt: skip
        return Run(self.case, self.entry, kind, number, seed, settings, past)

    def _ended(self, stored: Stored) -> Past:
        return past_of(stored, self.metric)

    def _curves(self) -> tuple[Mapping[int, float], ...]:
        return tuple(
            one.curve for one in self._past if one.curve and one.value is not None
            and not one.pruned
        )  # fmt: skip

    # -- the choice ----------------------------------------------------------------------------

    def chosen(self, known: Known) -> Mapping[str, Any] | None:
        """Settings of the best trial; None where all failed or some have not ended."""
        if not self.trials:
            return {}
        best: tuple[float, Mapping[str, Any]] | None = None
        for number in range(self.trials):
            stored = known.get(self._id("trial", number))
            if stored is None or stored.row is None:
                return None
            if stored.row["status"] != "done":
                continue
            value = float(stored.row["validation"][self.metric])
            if best is None or (value > best[0] if self.higher else value < best[0]):
                best = value, stored.settings
        return None if best is None else best[1]

    def stale(self, known: Known) -> list[str]:
        """Final runs whose settings are no longer the chosen ones, since trials were added."""
        chosen = self.chosen(known)
        if chosen is None:
            return []
        ids = [self._id("final", seed) for seed in self.study.seeds]
        return [run for run in ids if run in known and dict(known[run].settings) != dict(chosen)]

    def hopeless(self, known: Known) -> list[Run]:
        """Final runs that cannot be made, since every trial failed."""
        ended = [known.get(self._id("trial", n)) for n in range(self.trials)]
        if not ended or not all(self._has(one) for one in ended) or self.chosen(known) is not None:
            return []
        runs = [self._run("final", seed, seed, {}, ()) for seed in self.study.seeds]
        return [run for run in runs if not self._has(known.get(run.id))]


def past_of(stored: Stored, metric: str) -> Past:
    """An ended trial as the sampler and the pruner see it."""
    row = stored.row or {}
    epochs = float(row.get("planned_epochs") or 0)
    curve = tenths([(epoch / epochs, value) for epoch, value in row["curve"]]) if epochs else {}
    if row["status"] == "done":
        return Past(stored.settings, float(row["validation"][metric]), curve)
    if row["status"] == "pruned" and row["curve"]:
        return Past(stored.settings, float(row["curve"][-1][1]), curve, pruned=True)
    return Past(stored.settings, None)
