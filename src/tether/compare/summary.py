"""What a study says: scores, comparisons, ranks, scaling, and the sentence that sums them up."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tether.compare.power import detectable_difference, seeds_needed
from tether.compare.ranks import Ranks, rank_methods
from tether.compare.statistics import holm
from tether.compare.summary_pairs import (
    NO_DIFFERENCE,
    AcrossCases,
    Comparison,
    common_means,
    compare_across,
    compare_pair,
)
from tether.compare.summary_scaling import ScalingCheck, check_scale, find_scales
from tether.compare.summary_scores import Row, Score, collect_scores

#: Metrics that are fractions, shown as percentages.
FRACTIONS = frozenset(
    "accuracy balanced_accuracy macro_f1 micro_f1 map auroc ece top5_accuracy".split()
)


@dataclass(frozen=True)
class Summary:
    """The findings of a study.

    Args:
        name: name of the study.
        metric: the score, a key of `test`.
        higher_is_better: whether larger scores are better.
        fraction: whether the scores are fractions, shown as percentages.
        alpha: chance of a false finding, for the whole study.
        baseline: the method that the others are compared with.
        methods: labels, in order.
        cases: names of the cases, in order.
        scores: one per case and method that ran.
        comparisons: one per case and pair of methods.
        across: one per pair of methods, with two or more cases.
        ranks: average ranks, with two or more cases; else None.
        ranks_p_holm: p-value of the Friedman test corrected for all tests of the study.
        scaling: one per pair of methods and set of cases that differ in size only.
        tests: number of tests that Holm's correction is for.
        warnings: what a reader must know: failed runs, missing pairs and the like.
    """

    name: str
    metric: str
    higher_is_better: bool
    fraction: bool
    alpha: float
    baseline: str
    methods: tuple[str, ...]
    cases: tuple[str, ...]
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    across: tuple[AcrossCases, ...] = ()
    ranks: Ranks | None = None
    ranks_p_holm: float = math.nan
    scaling: tuple[ScalingCheck, ...] = ()
    tests: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def differs(self) -> bool:
        """Whether any difference is claimed."""
        return (
            any(each.significant for each in self.comparisons)
            or any(over.significant for over in self.across)
            or self.ranks_differ
        )

    @property
    def ranks_differ(self) -> bool:
        """Whether the ranks of the methods are told apart at all."""
        return math.isfinite(self.ranks_p_holm) and self.ranks_p_holm <= self.alpha

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON, the verdict included."""
        from tether.compare.summary_words import verdict

        plain = _plain(dataclasses.asdict(self))
        return {"format": 1, "verdict": verdict(self), "differs": self.differs, **plain}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def summarise(rows: Sequence[Row], meta: Mapping[str, Any]) -> Summary:
    """Compare the methods of a study on the runs that have ended.

    Only final runs count, and only scores on the test set; two methods are compared on the seeds
    that both have. All tests of the study (every pair of methods in every case, over the cases
    from six on, and the ranks) form one family for Holm's correction, so that a study in which
    nothing differs reports a difference with a chance of at most `alpha`.

    Args:
        rows: one mapping per run.
        meta: name, metric, higher_is_better, methods, cases and baseline of the study; also
            `comparisons` (`"baseline"`, the default, or `"all"` for every pair), `alpha` (0.05),
            `sizes` and `target` for the scaling check.

    Example:
        >>> rows = [
        ...     {"case_id": "digits", "method": method, "kind": "final", "status": "done",
        ...      "seed": seed, "test": {"accuracy": score + 0.01 * (seed % 3)}}
        ...     for method, score in (("plain", 0.8), ("elr", 0.8)) for seed in range(5)
        ... ]
        >>> found = summarise(rows, {"metric": "accuracy", "baseline": "plain"})
        >>> found.comparisons[0].verdict
        'no significant difference'
    """
    metric, alpha = str(meta["metric"]), float(meta.get("alpha", 0.05))
    up = bool(meta.get("higher_is_better", True))
    scores = collect_scores(rows, metric)
    methods = _ordered(meta.get("methods"), [score.method for score in scores])
    cases = _ordered(meta.get("cases"), [score.case for score in scores])
    table = {(score.case, score.method): score for score in scores}
    baseline = str(meta.get("baseline") or "")
    if baseline not in methods:
        baseline = methods[0] if methods else ""
    pairs = _pairs(methods, baseline, every=meta.get("comparisons") == "all")
    found = {
        pair: [
            compare_pair(table[case, pair[0]], table[case, pair[1]], higher_is_better=up)
            for case in cases
            if (case, pair[0]) in table and (case, pair[1]) in table
        ]
        for pair in pairs
    }
    across = [
        each
        for pair in pairs
        if (each := compare_across(found[pair], higher_is_better=up)) is not None
    ]
    present = [method for method in methods if any((case, method) in table for case in cases)]
    ranks = _ranks(table, cases, present, up, alpha) if len(cases) > 1 else None
    comparisons = [each for pair in pairs for each in found[pair]]
    comparisons, across, rank_p, tests = _decide(comparisons, across, ranks, up, alpha)
    values = [value for score in scores for value in score.values.values()]
    fraction = metric in FRACTIONS and all(0 <= value <= 1 for value in values)
    scaling = _scaling(rows, meta, table, comparisons, pairs, up=up, fraction=fraction)
    place = {name: at for at, name in enumerate(cases)}
    ordered = sorted(scores, key=lambda s: (place[s.case], methods.index(s.method)))
    summary = Summary(
        name=str(meta.get("name") or "comparison"),
        metric=metric,
        higher_is_better=up,
        fraction=fraction,
        alpha=alpha,
        baseline=baseline,
        methods=tuple(methods),
        cases=tuple(cases),
        scores=tuple(ordered),
        comparisons=tuple(sorted(comparisons, key=lambda each: place[each.case])),
        across=tuple(across),
        ranks=ranks,
        ranks_p_holm=rank_p,
        scaling=tuple(scaling),
        tests=tests,
    )
    from tether.compare.summary_words import warnings_of

    return dataclasses.replace(summary, warnings=tuple(warnings_of(summary)))


def _ordered(given: Any, seen: Sequence[str]) -> list[str]:
    """What the study names, in its order, and then what only the rows know."""
    return list(dict.fromkeys([*(str(each) for each in given or ()), *seen]))


def _pairs(methods: Sequence[str], baseline: str, *, every: bool) -> list[tuple[str, str]]:
    if not every:
        return [(method, baseline) for method in methods if method != baseline]
    first = [baseline, *(method for method in methods if method != baseline)]
    return [(later, earlier) for earlier, later in itertools.combinations(first, 2)]


def _ranks(
    table: Mapping[tuple[str, str], Score],
    cases: Sequence[str],
    methods: Sequence[str],
    up: bool,
    alpha: float,
) -> Ranks | None:
    means = {
        case: common_means({m: table[case, m] for m in methods if (case, m) in table}, methods)
        for case in cases
    }
    return rank_methods(means, methods, higher_is_better=up, level=alpha)


def _decide(
    comparisons: Sequence[Comparison],
    across: Sequence[AcrossCases],
    ranks: Ranks | None,
    up: bool,
    alpha: float,
) -> tuple[list[Comparison], list[AcrossCases], float, int]:
    """Correct all p-values as one family, and say what each comparison has shown."""
    rank_p = ranks.friedman_p if ranks else math.nan
    raw = [each.p for each in comparisons] + [over.p for over in across] + [rank_p]
    corrected = holm(raw).tolist()
    tests = sum(math.isfinite(p) for p in raw)
    standing = sum(p > alpha for p in corrected)  # NaN is not
    strict = alpha / max(standing, 1)  # what Holm asks of the next one
    decided = []
    for each, p in zip(comparisons, corrected[: len(comparisons)], strict=True):
        verdict = _verdict(each.verdict, p, each.mean, up, alpha)
        more = None
        if verdict == NO_DIFFERENCE:
            needed = seeds_needed(each.mean, each.deviation, level=strict)
            more = max(needed - each.pairs, 1) if needed else None
        reach = detectable_difference(each.deviation, each.pairs, level=strict)
        decided.append(
            dataclasses.replace(each, p_holm=p, verdict=verdict, more_seeds=more, detectable=reach)
        )
    later = [
        dataclasses.replace(each, p_holm=p, verdict=_verdict(each.verdict, p, each.mean, up, alpha))
        for each, p in zip(across, corrected[len(comparisons) : -1], strict=True)
    ]
    return decided, later, corrected[-1], tests


def _verdict(before: str, p: float, mean: float, up: bool, alpha: float) -> str:
    if not math.isfinite(p):
        return before
    if p > alpha:
        return NO_DIFFERENCE
    return "better" if (mean > 0) == up else "worse"


def _scaling(
    rows: Sequence[Row],
    meta: Mapping[str, Any],
    table: Mapping[tuple[str, str], Score],
    comparisons: Sequence[Comparison],
    pairs: Sequence[tuple[str, str]],
    *,
    up: bool,
    fraction: bool,
) -> list[ScalingCheck]:
    checks = []
    for scale in find_scales(rows, meta.get("sizes") or {}):
        target = meta.get("target")
        if target is not None and not 0 < float(target) <= 10 * max(scale.sizes.values()):
            target = None
        for pair in pairs:
            mine = [each for each in comparisons if (each.method, each.against) == pair]
            check = check_scale(
                scale, table, mine, higher_is_better=up, fraction=fraction, target=target
            )
            if check is not None:
                checks.append(check)
    return checks
