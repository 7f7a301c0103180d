"""``tether average``: interpolate a run with its start, or make a soup of several runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from tether.average.outcome import FILE, Average, Candidate
from tether.average.runs import find_runs, open_all, shared_splits, weights_of
from tether.average.scoring import Kitchen
from tether.errors import ConfigError
from tether.methods.weights.averaging import interpolate, uniform_soup
from tether.tuning.metrics import LESS
from tether.tuning.opened import OpenedRun

SOUPS = ("greedy", "uniform")
HEADS = ("keep", "interpolate")
BATCH_NORMS = ("estimate", "average")
#: Shares of the fine-tuned weights that are tried where none is given.
SCAN = tuple(round(0.1 * step, 1) for step in range(11))


def average_runs(
    runs: Iterable[str | Path], *, alpha: Sequence[float] = (), soup: str = "",
    weights: str = "best", head: str = "keep", batch_norm: str = "estimate",
    output: str | Path | None = None, batch_size: int = 64, device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Average:  # fmt: skip
    """Average weights after training, and write the result as an ordinary model.

    One run is interpolated with the weights that it began with,
    ``W = (1 - alpha) W0 + alpha W_tuned`` (WiSE-FT); several runs from one start are averaged
    (model soups). Where there is something to choose, it is chosen on the validation split.

    Args:
        runs: folders of finished runs, or of a study that kept its runs.
        alpha: of one run: shares of the tuned weights in [0, 1]; of several the best on the
            validation split is taken. Empty: 0, 0.1, ..., 1.
        soup: of several runs: ``"greedy"`` (the default) adds runs, the best first, as long as
            the validation metric does not get worse; ``"uniform"`` averages all.
        weights: of the runs: ``"best"``, ``"last"`` or ``"exported"``.
        head: of an interpolation: ``"keep"`` the tuned head, since the one that a run begins with
            was drawn at random; ``"interpolate"`` it like the rest.
        batch_norm: running statistics of an average: ``"estimate"`` them anew in a pass over the
            training data, as stochastic weight averaging does; or ``"average"`` them like weights.
        output: folder to write; by default ``RUN/average``, for several runs ``soup``.
        batch_size: samples of a forward.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:NUMBER"``.
        tell: is told of each candidate.

    Raises:
        ConfigError: options that do not go together, runs that cannot be averaged, a folder that
            holds something else.
    """
    for name, value, known in (
        ("soup", soup or "greedy", SOUPS), ("head", head, HEADS),
        ("batch_norm", batch_norm, BATCH_NORMS),
    ):  # fmt: skip
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    paths = find_runs(runs)
    _check_options(paths, alpha, soup)
    folder = Path(output) if output else (paths[0] / "average" if len(paths) == 1 else Path("soup"))
    _check_folder(folder)
    opened = open_all(paths, weights)
    splits = shared_splits(opened)
    kitchen = Kitchen(opened[0], splits, batch_norm, batch_size, device)
    higher = opened[0].result.metric not in LESS
    if len(opened) == 1:
        found = _interpolation(opened[0], kitchen, alpha or SCAN, head, higher, tell)
    else:
        found = _soup(opened, kitchen, soup or "greedy", higher, tell)
    found.output = str(folder)
    kitchen.loaded.save(folder / "model")
    found.write(folder, kitchen.loaded.how_to_load)
    return found


def _check_options(paths: Sequence[Path], alpha: Sequence[float], soup: str) -> None:
    if not paths:
        raise ConfigError("no run: give the folder of a finished run, or of several")
    if len(paths) == 1 and soup:
        raise ConfigError("--soup is for several runs; one run is averaged with its start: --alpha")
    if len(paths) > 1 and alpha:
        raise ConfigError("--alpha is for one run; several are averaged with one another: --soup")
    for value in alpha:
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"alpha must lie in [0, 1], got {value:g}")


def _check_folder(folder: Path) -> None:
    there = folder.is_dir() and any(folder.iterdir())
    if folder.is_file() or (there and not (folder / FILE).is_file()):
        raise ConfigError(f"output folder {folder}: it holds something else than an average")


# -- with the start --------------------------------------------------------------------------------


def _interpolation(
    run: OpenedRun, kitchen: Kitchen, alphas: Sequence[float], head: str, higher: bool,
    tell: Callable[[str], None],
) -> Average:  # fmt: skip
    end = weights_of(run)
    start = dict(run.reference)
    if head == "keep":
        start = {
            name: tensor for name, tensor in start.items()
            if not name.startswith(f"{kitchen.loaded.head}.")
        }  # fmt: skip

    def mix(alpha: float) -> dict[str, Tensor]:
        return interpolate(start, end, alpha)

    candidates = []
    for alpha in alphas:
        scores = kitchen.taste(mix(alpha), mixed=0.0 < alpha < 1.0)
        candidates.append(Candidate(f"alpha {alpha:g}", alpha, [0], scores))
        tell(f"alpha {alpha:g}: {kitchen.told(scores)}")
    chosen = _best(candidates, kitchen.metric, higher) if len(alphas) > 1 else 0
    kitchen.put(mix(alphas[chosen]), mixed=0.0 < alphas[chosen] < 1.0)
    return Average(
        "interpolation", [str(run.path)], run.weights, kitchen.metric, higher, chosen, candidates,
        kitchen.batch_norm,
    )  # fmt: skip


def _best(candidates: Sequence[Candidate], metric: str, higher: bool) -> int:
    """The best on the validation split; of equal ones the most likely, then the first."""

    def merit(at: int) -> tuple[float, float]:
        scores = candidates[at].scores["validation"]
        value = scores[metric] if higher else -scores[metric]
        return (value if value == value else -math.inf), -scores.get("nll", 0.0)

    return max(range(len(candidates)), key=merit)


# -- soups -----------------------------------------------------------------------------------------


def _soup(
    runs: Sequence[OpenedRun], kitchen: Kitchen, soup: str, higher: bool,
    tell: Callable[[str], None],
) -> Average:  # fmt: skip
    if soup == "greedy" and "validation" not in kitchen.splits:
        raise ConfigError(
            "a greedy soup chooses on validation samples that no run was trained on, and these "
            "runs split their data differently: give runs with one --seed, data with a validation "
            "split of their own, or --soup uniform"
        )
    weights = [weights_of(run) for run in runs]
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    candidates = []
    for at, name in enumerate(names):
        scores = kitchen.taste(weights[at], mixed=False)
        candidates.append(Candidate(name, None, [at], scores))
        tell(f"{name}: {kitchen.told(scores)}")
    if soup == "uniform":
        bowl = list(range(len(runs)))
        scores = kitchen.taste(uniform_soup(weights))
        candidates.append(Candidate("all", None, bowl, scores))
        tell(f"all: {kitchen.told(scores)}")
        chosen = len(candidates) - 1
    else:
        chosen = _greedy(weights, names, kitchen, candidates, higher, tell)
    bowl = candidates[chosen].runs
    kitchen.put(uniform_soup([weights[at] for at in bowl]), mixed=len(bowl) > 1)
    seeds = sorted({run.stage.seed for run in runs})
    notes = []
    if len(seeds) > 1:
        notes.append(
            f"the runs have the seeds {', '.join(map(str, seeds))}, so that their heads began "
            "differently; soups are meant for runs from one start"
        )
    return Average(
        f"{soup} soup", [str(run.path) for run in runs], runs[0].weights, kitchen.metric, higher,
        chosen, candidates, kitchen.batch_norm, notes,
    )  # fmt: skip


def _greedy(
    weights: Sequence[dict[str, Tensor]], names: Sequence[str], kitchen: Kitchen,
    candidates: list[Candidate], higher: bool, tell: Callable[[str], None],
) -> int:  # fmt: skip
    """Add runs, the best first, while the soup gets no worse; the place of the last that did."""
    sign = 1.0 if higher else -1.0

    def value(one: Candidate) -> float:
        number = sign * one.scores["validation"][kitchen.metric]
        return number if number == number else -math.inf

    order = sorted(range(len(weights)), key=lambda at: -value(candidates[at]))
    chosen, bowl = order[0], [order[0]]
    for at in order[1:]:
        runs = [*bowl, at]
        scores = kitchen.taste(uniform_soup([weights[k] for k in runs]))
        one = Candidate(" + ".join(names[k] for k in runs), None, runs, scores)
        one.kept = value(one) >= value(candidates[chosen])
        candidates.append(one)
        if one.kept:
            chosen, bowl = len(candidates) - 1, runs
        tell(f"{one.name}: {kitchen.told(scores)}{'' if one.kept else ' (left out)'}")
    return chosen
