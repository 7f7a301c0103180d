"""What a tuning trial tries: a pure function of its number and of the trials that it follows.

Optuna's sampler is made anew for every trial, with a seed that follows from the study, the case,
the method and the trial's number. What a trial tries therefore depends neither on the order in
which runs end, nor on how often the comparison was broken off, nor on how many work on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tether.compare.space import Range, inside
from tether.optional import require

#: Trials before the sampler learns from others: the first takes the defaults, the rest is random.
STARTUP = 4
#: Pruning looks at every tenth of a training, from the third on.
STEPS, WARMUP = 10, 3


@dataclass(frozen=True)
class Past:
    """A trial that ended.

    Attributes:
        settings: what it tried.
        value: its score; None where it failed.
        curve: step (tenths of training) -> score there.
        pruned: whether it was broken off.
    """

    settings: Mapping[str, Any]
    value: float | None
    curve: Mapping[int, float] = field(default_factory=dict)
    pruned: bool = False


def stable_seed(*parts: object) -> int:
    """32 bits that follow from the parts alone."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big")


def suggest(
    shared: Mapping[str, Range], own: Mapping[str, Range], defaults: Mapping[str, Any],
    past: Sequence[Past], *, number: int, case: str, method: str, seed: int, higher: bool,
) -> dict[str, Any]:  # fmt: skip
    """What trial ``number`` of a method tries.

    Trial 0 takes the defaults where they lie in the ranges. The random trials after it take the
    same values of the shared options for every method. From trial ``STARTUP`` on Optuna's
    tree-structured Parzen estimator learns from the trials before.

    Args:
        shared: ranges that every method of the study has.
        own: ranges of this method.
        defaults: option -> its value without tuning.
        past: the trials before this one's wave, in order.
        number: from 0.
        case: name of the case.
        method: label of the method.
        seed: the tuning seed of the study.
        higher: whether more is better.
    """
    if not shared and not own:
        return {}
    mine = stable_seed(seed, case, method, number)
    if number >= STARTUP:
        found = _ask({**shared, **own}, past, mine, higher)
    else:
        found = {
            **_ask(shared, (), stable_seed(seed, case, number), higher),
            **_ask(own, (), mine, higher),
        }
    if number == 0:
        ranges = {**shared, **own}
        found |= {
            key: _typed(value, ranges[key])
            for key, value in defaults.items()
            if key in ranges and inside(value, ranges[key])
        }
    return found


def _typed(value: Any, found: Range) -> Any:
    kind, *values = found
    if kind == "choice":
        return values[values.index(value)]
    return int(value) if kind == "int" else float(value)


def _ask(
    ranges: Mapping[str, Range], past: Sequence[Past], seed: int, higher: bool
) -> dict[str, Any]:
    if not ranges:
        return {}
    optuna = quiet_optuna()
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=sampler)
    kinds = distributions(ranges)
    study.add_trials([frozen(one, kinds) for one in past if one.settings.keys() == ranges.keys()])
    return dict(study.ask(kinds).params)


def frozen(past: Past, kinds: Mapping[str, Any]) -> Any:
    """A trial of the past as Optuna keeps it."""
    optuna = quiet_optuna()
    state = optuna.trial.TrialState
    return optuna.trial.create_trial(
        params=dict(past.settings), distributions=dict(kinds), value=past.value,
        intermediate_values=dict(past.curve),
        state=state.FAIL if past.value is None else state.PRUNED if past.pruned
        else state.COMPLETE,
    )  # fmt: skip


def distributions(ranges: Mapping[str, Range]) -> dict[str, Any]:
    """The ranges as Optuna knows them."""
    of = quiet_optuna().distributions
    made: dict[str, Any] = {}
    for key, (kind, *values) in ranges.items():
        if kind == "choice":
            made[key] = of.CategoricalDistribution(values)
        elif kind == "int":
            made[key] = of.IntDistribution(*values)
        else:
            made[key] = of.FloatDistribution(*values, log=kind == "log")
    return made


def quiet_optuna() -> Any:
    """Optuna, without its lines on stderr."""
    optuna: Any = require("optuna", "sweep", "a comparison")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# -- pruning ---------------------------------------------------------------------------------------


def tenths(points: Sequence[tuple[float, float]]) -> dict[int, float]:
    """Step -> the last score at or before that tenth of training.

    Args:
        points: (share of training done, score), in order.

    Example:
        >>> tenths([(0.25, 0.5), (0.5, 0.7)])
        {2: 0.5, 3: 0.5, 4: 0.5, 5: 0.7}
    """
    found: dict[int, float] = {}
    for at, (share, value) in enumerate(points):
        done = points[at + 1][0] if at + 1 < len(points) else share
        first, last = int(share * STEPS + 1e-9), int(done * STEPS + 1e-9)
        for step in range(max(first, 1), max(last, first) + 1):
            found[step] = value
    return found


def should_prune(
    curve: Mapping[int, float], past: Sequence[Mapping[int, float]], higher: bool
) -> bool:
    """Whether a trial does worse than the median of those before it at the same point.

    Args:
        curve: step -> score of the trial, up to now.
        past: the curves of the trials before its wave that were not broken off.
        higher: whether more is better.
    """
    if not curve or len(past) < STARTUP:
        return False
    optuna = quiet_optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP)
    study = optuna.create_study(direction="maximize" if higher else "minimize", pruner=pruner)
    for one in past:
        study.add_trial(
            optuna.trial.create_trial(value=one[max(one)], intermediate_values=dict(one))
        )
    trial = study.ask()
    for step, value in curve.items():
        trial.report(value, step)
    return bool(trial.should_prune())
