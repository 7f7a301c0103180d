"""The tuning trials in Optuna's own tables, beside ours: for its dashboard and its tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.compare.arm import Arm, past_of
from tether.compare.plan import run_id
from tether.compare.storage import PATIENCE, Storage, Stored
from tether.compare.suggest import Past, distributions, frozen, quiet_optuna
from tether.errors import TetherError

_NUMBER = "trial of the comparison"


class OptunaStudies:
    """One Optuna study for each arm, in the database of the comparison.

    Nothing is read from them but which trials they have: what is tried next follows from the
    comparison's own rows. A trial that is missing, since a process was killed, is added later.

    Args:
        storage: of the comparison.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._made: Any = None

    def _open(self) -> Any:
        if self._made is None:
            waits = "timeout" if self._storage.url.startswith("sqlite") else "connect_timeout"
            self._made = quiet_optuna().storages.RDBStorage(
                self._storage.url, engine_kwargs={"connect_args": {waits: PATIENCE}}
            )
        return self._made

    def update(self, arm: Arm, known: Mapping[str, Stored]) -> None:
        """Add the trials of an arm that ended and are not there.

        Raises:
            TetherError: the storage cannot be written to.
        """
        ended = {
            number: stored
            for number in range(arm.trials)
            if (stored := known.get(run_id(arm.case.case_id, arm.entry.label, "trial", number)))
            and stored.row is not None
        }
        if not ended:
            return
        optuna = quiet_optuna()
        try:
            study = optuna.create_study(
                storage=self._open(), study_name=self.name(arm.name), load_if_exists=True,
                direction="maximize" if arm.higher else "minimize",
            )  # fmt: skip
            failed = optuna.trial.TrialState.FAIL
            there = {t.user_attrs.get(_NUMBER) for t in study.trials if t.state != failed}
            kinds = distributions({**arm.shared, **arm.own})
            for number, stored in ended.items():
                past = past_of(stored, arm.metric)
                if number not in there and (past.value is not None or self._is_new(study, number)):
                    study.add_trial(self._trial(past, kinds, number))
        except Exception as error:  # of its layers, whatever they raise
            first = str(error).strip().partition("\n")[0]
            raise TetherError(f"storage: Optuna could not keep a trial: {first}") from error

    @staticmethod
    def _is_new(study: Any, number: int) -> bool:
        return all(trial.user_attrs.get(_NUMBER) != number for trial in study.trials)

    @staticmethod
    def _trial(past: Past, kinds: Mapping[str, Any], number: int) -> Any:
        trial = frozen(past, kinds)
        trial.set_user_attr(_NUMBER, number)
        return trial

    def name(self, arm: str) -> str:
        """Name of an arm's Optuna study."""
        return f"{self._storage.name} / {arm}"

    def clear(self) -> None:
        """Remove the studies of this comparison."""
        optuna, start = quiet_optuna(), self.name("")
        for name in optuna.study.get_all_study_names(self._open()):
            if name.startswith(start):
                optuna.delete_study(study_name=name, storage=self._open())

    def close(self) -> None:
        """Leave the database."""
        if self._made is not None:
            self._made.remove_session()
            self._made.engine.dispose()
