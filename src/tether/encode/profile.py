"""How far each depth group of a finished run moved: from its rows, or from its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from tether.engine.layers import WeightRef
    from tether.tuning.opened import OpenedRun

NORMS = ("fro", "mars")
#: Keys of a row of ``metrics.jsonl``: the distance of a depth group, and the head's norm.
DISTANCE, HEAD_NORM = "distance.", "head_norm"


@dataclass(frozen=True)
class Profile:
    """The distances of a run.

    Attributes:
        run: its folder, as it was given.
        weights: which weights were measured, ``"best"`` or ``"last"``.
        epoch: after which epoch.
        norm: ``"fro"`` or ``"mars"``.
        distances: depth group -> typical distance of one of its weight tensors, in order of depth.
        head: the same for the weights of the head, from zero; None where it has none.
        source: where the numbers were found: ``"metrics.jsonl"`` or ``"weights"``.
    """

    run: str
    weights: str
    epoch: float
    norm: str
    distances: dict[str, float]
    head: float | None
    source: str


def joined(distances: Sequence[float], norm: str) -> float:
    """One number for the tensors of a group, such that radii made of it bound the group.

    Root mean square of Frobenius distances: with a radius of ``ratio`` times it for each tensor,
    the group as a whole moves at most ``ratio`` times as far as it did. The largest of the MARS
    norms, which is the norm of the whole.

    Example:
        >>> joined([3.0, 4.0], "fro") == (25 / 2) ** 0.5, joined([3.0, 4.0], "mars")
        (True, 4.0)
    """
    if norm == "mars":
        return max(distances)
    return math.sqrt(sum(d * d for d in distances) / len(distances))


def bound_weights(refs: Iterable[WeightRef]) -> list[WeightRef]:
    """The parameters that the distance constraints bind, batch norms left out, in depth order."""
    found = [ref for ref in refs if ref.role == "weight" and ref.param.ndim in (2, 4)]
    return sorted(found, key=lambda ref: ref.depth)


def tensor_distances(
    refs: Sequence[WeightRef], reference: Mapping[str, Tensor], norm: str = "fro"
) -> dict[str, float]:
    """Distance of each weight from the reference; of a head's from zero.

    Args:
        refs: what :func:`bound_weights` gives.
        reference: name -> tensor of the start; the head's are not needed.
        norm: ``"fro"`` or ``"mars"``.
    """
    from tether.measure import layer_distances

    if not refs:
        return {}
    weights = {ref.name: ref.param.detach() for ref in refs}
    zero = [ref.name for ref in refs if ref.is_head]
    table = layer_distances(weights, reference, norms=(norm,), from_zero=zero)
    return {name: row[norm] for name, row in table.items()}


def group_distances(
    refs: Sequence[WeightRef], distances: Mapping[str, float], norm: str = "fro"
) -> tuple[dict[str, float], float | None]:
    """Typical distance of each depth group, and of the head; None where it has no weights.

    Args:
        refs: what :func:`bound_weights` gives.
        distances: of each of them, by :func:`tensor_distances`.
        norm: ``"fro"`` or ``"mars"``.
    """
    groups: dict[str, list[float]] = {}
    for ref in refs:
        groups.setdefault(ref.group, []).append(distances[ref.name])
    found = {group: joined(values, norm) for group, values in groups.items()}
    head = found.pop("head", None)
    return found, head


def measured_profile(
    run: str | Path | OpenedRun, *, weights: str = "best", norm: str = "fro"
) -> Profile:
    """The distances of a finished run by depth group.

    They are read from ``metrics.jsonl`` where training measured them, which needs neither data nor
    weights; otherwise the run is put together again and its weights are measured.

    Args:
        run: the run folder, or the run as :func:`tether.tuning.opened.open_run` gives it.
        weights: ``"best"`` (of the best epoch on the validation split) or ``"last"``.
        norm: ``"fro"`` or ``"mars"``; it must be that of the constraint.

    Raises:
        ConfigError: no finished run, other weights or norms, a run without distances whose data
            are gone, or one whose weights did not move.
    """
    from tether.tuning.opened import OpenedRun, open_run

    if weights not in ("best", "last"):
        raise ConfigError(f"option weights: best or last, not {weights!r}")
    if norm not in NORMS:
        raise ConfigError(f"option norm: {' or '.join(NORMS)}, not {norm!r}")
    opened = run if isinstance(run, OpenedRun) else open_run(run, weights=weights)
    best = opened.result.best_epoch
    epoch = best if weights == "best" and best else opened.result.epochs
    row = _row(opened.history, epoch) if norm == "fro" else {}
    found = {k.removeprefix(DISTANCE): float(v) for k, v in row.items() if k.startswith(DISTANCE)}
    head, source = row.get(HEAD_NORM), "metrics.jsonl"
    if not found:
        found, head = _from_weights(opened, norm)
        source = "weights"
    _check(found, opened.path)
    return Profile(str(opened.path), weights, epoch, norm, found, head, source)


def _row(history: Sequence[Mapping[str, Any]], epoch: float) -> Mapping[str, Any]:
    """The row of an epoch; empty where there is none."""
    return next((row for row in history if abs(row["epoch"] - epoch) < 1e-4), {})


def _from_weights(opened: OpenedRun, norm: str) -> tuple[dict[str, float], float | None]:
    from tether.engine.layers import weight_refs

    refs = bound_weights(weight_refs(opened.model, opened.assembly.loaded.head))
    return group_distances(refs, tensor_distances(refs, opened.reference, norm), norm)


def _check(distances: Mapping[str, float], run: Path) -> None:
    bad = [group for group, distance in distances.items() if not math.isfinite(distance)]
    if bad:
        raise ConfigError(
            f"run {run}: the distance of {bad[0]!r} is not finite: training diverged; lower the "
            "learning rate"
        )
    if not any(distances.values()):
        raise ConfigError(
            f"run {run}: no weight below the head has moved (a linear probe, or a learning rate of "
            "0), so there is no profile: take a run that trained the layers"
        )
