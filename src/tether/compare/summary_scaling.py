"""Which cases of a study are one thing at several sizes, and how the methods compare over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tether.compare.scaling import Crossing, find_crossing
from tether.compare.summary_pairs import Comparison
from tether.compare.summary_scores import Row, Score

#: What varies, and what it is called on an axis.
AXES = {
    "train": "training samples",
    "shots": "training samples per class",
    "parameters": "parameters of the model",
}


@dataclass(frozen=True)
class Scale:
    """Cases that differ in one size only.

    Args:
        axis: what the size counts, a value of `AXES`.
        name: what the cases have in common.
        sizes: case to size, rising.
    """

    axis: str
    name: str
    sizes: dict[str, float]


@dataclass(frozen=True)
class ScalingCheck:
    """Two methods over the sizes of a scale.

    Args:
        axis: what the size counts.
        name: what the cases have in common.
        method: label of the method.
        against: label of the one it is compared with.
        cases: the cases, by rising size.
        crossing: the curves' crossing, see `Crossing`.
        verdict: `"crossing"` (differences of opposite sign, each significant after Holm, at two
            sizes), `"crossing likely"` (another leader at the largest size than at the smallest
            in 95 % of the resamples), `"crossing not settled"`, or
            `"no crossing within the range measured"`.
    """

    axis: str
    name: str
    method: str
    against: str
    cases: tuple[str, ...]
    crossing: Crossing
    verdict: str


def find_scales(rows: Iterable[Row], sizes: Mapping[str, Mapping[str, Any]]) -> list[Scale]:
    """Group the cases of a study that differ only in size.

    Args:
        rows: the runs; their `case` tells model, data, noise, shots and limit_train.
        sizes: case to `"train"` (rows trained on) and `"parameters"`, where known.

    Example:
        >>> rows = [
        ...     {"case_id": f"d {n}", "case": {"model": "m", "data": "d", "limit_train": n}}
        ...     for n in (200, 100)
        ... ]
        >>> find_scales(rows, {})[0].sizes
        {'d 100': 100.0, 'd 200': 200.0}
    """
    cases = {str(row["case_id"]): dict(row.get("case") or {}) for row in rows}
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for case, parts in cases.items():
        known = sizes.get(case) or {}
        model, data = (str(parts.get(key, "")) for key in ("model", "data"))
        noise = str(parts.get("noise") or "")
        limit, shots = (int(parts.get(key) or 0) for key in ("limit_train", "shots"))
        train = float(known.get("train") or limit or 0)
        if train:
            groups.setdefault(("train", model, data, noise), {})[case] = train
        elif shots:
            groups.setdefault(("shots", model, data, noise), {})[case] = float(shots)
        if known.get("parameters"):
            key = ("parameters", data, noise, f"{limit or ''}", f"{shots or ''}")
            groups.setdefault(key, {})[case] = float(known["parameters"])
    return [
        Scale(AXES[axis], ", ".join(part for part in common if part), dict(_rising(found)))
        for (axis, *common), found in groups.items()
        if len(found) > 1 and len(set(found.values())) == len(found)
    ]


def _rising(sizes: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(sizes.items(), key=lambda item: item[1])


def check_scale(
    scale: Scale,
    scores: Mapping[tuple[str, str], Score],
    comparisons: Sequence[Comparison],
    *,
    higher_is_better: bool,
    fraction: bool,
    target: float | None = None,
) -> ScalingCheck | None:
    """Compare two methods over a scale; None where fewer than two sizes have pairs.

    Args:
        scale: the cases and their sizes.
        scores: (case, method) to scores.
        comparisons: the comparisons of these two methods, one per case.
        higher_is_better: whether larger scores are better.
        fraction: whether scores are fractions, whose losses are 1 - score.
        target: a size to extrapolate to.
    """
    known = {each.case: each for each in comparisons if each.pairs and each.case in scale.sizes}
    cases = tuple(case for case in scale.sizes if case in known)
    if len(cases) < 2:
        return None
    pair = (known[cases[0]].method, known[cases[0]].against)

    def losses(method: str) -> list[list[float]]:
        return [
            [
                _loss(scores[case, method].values[seed], higher_is_better, fraction)
                for seed in known[case].differences
            ]
            for case in cases
        ]

    sizes = [scale.sizes[case] for case in cases]
    found = find_crossing(sizes, losses(pair[0]), losses(pair[1]), target=target)
    signs = {known[case].verdict for case in cases if known[case].significant}
    if len(signs) == 2:
        verdict = "crossing"
    elif found.at is None:
        verdict = "no crossing within the range measured"
    else:
        sure = math.isfinite(found.share) and found.share >= 0.95
        verdict = "crossing likely" if sure else "crossing not settled"
    return ScalingCheck(scale.axis, scale.name, *pair, cases, found, verdict)


def _loss(score: float, higher_is_better: bool, fraction: bool) -> float:
    if not higher_is_better:
        return score
    return 1 - score if fraction else -score
