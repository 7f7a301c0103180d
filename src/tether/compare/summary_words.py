"""A study in words: the verdict, what the numbers do not show, and numbers as text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.compare.statistics import FEWEST_PAIRS
from tether.compare.summary_pairs import NO_DIFFERENCE, AcrossCases, Comparison

if TYPE_CHECKING:
    from tether.compare.summary import Summary

_NAMED = 4  # methods and cases that a sentence names
_CLAIMS = 6  # sentences of the verdict
_BIDI = frozenset("R AL RLE LRE RLO LRO RLI LRI FSI PDI PDF".split())


@dataclass(frozen=True)
class Numbers:
    """Scores and differences as text.

    Args:
        fraction: scores are fractions, shown as percentages, their differences in points.

    Example:
        >>> Numbers(True).score(0.8123), Numbers(True).difference(-0.0042)
        ('81.23 %', '−0.42 points')
        >>> Numbers(False).difference(0.5, bare=True)
        '+0.5'
    """

    fraction: bool

    def score(self, value: float) -> str:
        """A score."""
        if not math.isfinite(value):
            return "–"
        return f"{100 * value:.2f} %" if self.fraction else f"{value:.4g}".replace("-", "−")

    def difference(self, value: float, *, bare: bool = False) -> str:
        """A difference of scores with its sign; `bare` leaves out the unit."""
        if not math.isfinite(value):
            return "–"
        text = f"{100 * value:+.2f}" if self.fraction else f"{value:+.3g}"
        if not text.strip("+-0."):
            text = text.lstrip("+-")
        return text.replace("-", "−") + (" points" if self.fraction and not bare else "")

    def interval(self, ends: tuple[float, float] | None) -> str:
        """An interval of differences, without unit; a dash for none."""
        if ends is None:
            return "–"
        return f"[{self.difference(ends[0], bare=True)}; {self.difference(ends[1], bare=True)}]"


def p_text(p: float) -> str:
    """A p-value as text.

    Example:
        >>> p_text(0.0312), p_text(0.00001), p_text(float("nan"))
        ('0.031', '< 0.001', '–')
    """
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"


def shown(label: object, limit: int = 60) -> str:
    """A name inside a sentence: no control signs, and its direction stays its own.

    Example:
        >>> shown("elr\\x1b[31m")
        'elr\\\\x1b[31m'
    """
    signs = [
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) == "Cc" else sign
        for sign in str(label)
        if sign != "\u2069"
    ]
    text = "".join(signs)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    if any(unicodedata.bidirectional(sign) in _BIDI for sign in text):
        return f"\u2068{text}\u2069"
    return text


def joined(names: Sequence[object], most: int = _NAMED) -> str:
    """Names as part of a sentence.

    Example:
        >>> joined(["a", "b", "c"]), joined(["a", "b", "c"], most=2)
        ('a, b and c', 'a, b and 1 more')
    """
    parts = [shown(name) for name in names[:most]]
    if len(names) > most:
        parts.append(f"{len(names) - most} more")
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def counted(number: int, thing: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def verdict(summary: Summary) -> str:
    """What the study found, in one or two sentences.

    Example:
        >>> from tether.compare.summary import summarise
        >>> verdict(summarise([], {"metric": "accuracy"}))
        'No final run has ended with a score.'
    """
    scored = [m for m in summary.methods if any(s.values for s in summary.scores if s.method == m)]
    if not scored:
        return "No final run has ended with a score."
    if len(scored) == 1:
        return f"Only {shown(scored[0])} has scores: there is nothing to compare it with."
    tested = [each for each in summary.comparisons if math.isfinite(each.p)]
    if not summary.tests:
        most = max((each.pairs for each in summary.comparisons), default=0)
        return (
            f"Too few seeds to tell: {counted(most, 'seed')} per method, and an interval needs "
            f"{FEWEST_PAIRS}."
        )
    parts = list(_claims(summary))
    if len(parts) > _CLAIMS:
        parts[_CLAIMS:] = [f"And {counted(len(parts) - _CLAIMS, 'more finding')}."]
    if not parts:
        seeds = sorted({each.pairs for each in tested})
        spread = f"{seeds[0]}" if seeds[:1] == seeds[-1:] else f"{seeds[0]} to {seeds[-1]}"
        where = f" in {counted(len({each.case for each in tested}), 'case')}" if tested else ""
        over = f"{spread} seeds per method, " if seeds else f"{len(summary.cases)} cases, "
        parts.append(
            f"No significant difference{where} ({over}{counted(summary.tests, 'test')}, "
            f"{100 * summary.alpha:g} % for all together)."
        )
        parts.extend(_settling(summary, tested))
    elif any(each.verdict == NO_DIFFERENCE for each in tested):
        parts.append("All else: no significant difference.")
    return " ".join(parts)


def _claims(summary: Summary) -> Iterable[str]:
    numbers = Numbers(summary.fraction)
    for pair in dict.fromkeys((each.method, each.against) for each in summary.comparisons):
        mine = [each for each in summary.comparisons if (each.method, each.against) == pair]
        names = shown(pair[0]), shown(pair[1])
        found = {word: [e for e in mine if e.verdict == word] for word in ("better", "worse")}
        if len(mine) == 1 and mine[0].significant:
            word = mine[0].verdict
            yield f"{names[0]} is {word} than {names[1]}: {_evidence(mine[0], numbers)}."
            continue
        parts = [
            f"{word} in {len(each)} ({joined([e.case for e in each], most=3)})"
            for word, each in found.items()
            if each
        ]
        if parts:
            yield f"{names[0]} against {names[1]}, {len(mine)} cases: {' and '.join(parts)}."
    for over in summary.across:
        if over.significant:
            yield (
                f"Over {over.cases} cases, {shown(over.method)} is {over.verdict} than "
                f"{shown(over.against)}: {_over(over, numbers)}."
            )
    if summary.ranks_differ and summary.ranks is not None:
        yield (
            f"The ranks over {len(summary.ranks.cases)} cases differ "
            f"(Friedman, p = {p_text(summary.ranks_p_holm)})."
        )
    for check in summary.scaling:
        if check.verdict == "crossing":
            yield (
                f"The curves of {shown(check.method)} and {shown(check.against)} over the "
                f"{check.axis} cross."
            )


def _evidence(each: Comparison, numbers: Numbers) -> str:
    return (
        f"{numbers.difference(each.mean)} {numbers.interval(each.interval)}, "
        f"p = {p_text(each.p_holm)}, {counted(each.pairs, 'seed')}"
    ).replace("p = <", "p <")


def _over(over: AcrossCases, numbers: Numbers) -> str:
    return f"{numbers.difference(over.mean)} on average, p = {p_text(over.p_holm)}".replace(
        "p = <", "p <"
    )


def _settling(summary: Summary, tested: Sequence[Comparison]) -> Iterable[str]:
    """The comparison that the fewest further seeds would settle."""
    near = [each for each in tested if each.more_seeds]
    if near:
        first = min(near, key=lambda each: each.more_seeds or 0)
        where = f" in {shown(first.case)}" if len(summary.cases) > 1 else ""
        yield (
            f"Closest to a finding: {shown(first.method)} against {shown(first.against)}{where}; "
            f"if the difference seen ({Numbers(summary.fraction).difference(first.mean)}) is real, "
            f"{counted(first.more_seeds or 0, 'more seed')} would show it (80 % power)."
        )


def warnings_of(summary: Summary) -> list[str]:
    """What a reader must know before trusting the numbers."""
    found = []
    scores = summary.scores
    for count, words in (
        ({(s.method, s.case): s.failed for s in scores}, "final run failed"),
        ({(s.method, s.case): s.without_score for s in scores}, "final run ended without a score"),
    ):
        bad = [(method, case, number) for (method, case), number in count.items() if number]
        if bad:
            total = sum(number for _, _, number in bad)
            where = joined([f"{method} in {case} ({number})" for method, case, number in bad])
            kind = words if total == 1 else words.replace("run", "runs")
            found.append(
                f"{total} {kind}: {where}. The other method of each pair lost that seed too; "
                "a method that fails is not better for it."
            )
    tuning = sum(score.trials_failed for score in scores)
    if tuning:
        found.append(f"{counted(tuning, 'tuning trial')} failed.")
    lone = [each for each in summary.comparisons if each.unpaired and each.pairs]
    if lone:
        total = sum(each.unpaired for each in lone)
        found.append(
            f"{counted(total, 'score')} without a partner on the same seed left out of the pairs."
        )
    few = list(
        dict.fromkeys(each.case for each in summary.comparisons if each.pairs < FEWEST_PAIRS)
    )
    if few:
        found.append(
            f"Too few seeds for an interval in {joined(few)}: it needs {FEWEST_PAIRS} pairs."
        )
    missing = _missing(summary)
    if missing:
        found.append(f"No score of {joined(missing)}.")
    same = [f"{e.method} and {e.against} in {e.case}" for e in _identical(summary)]
    if same:
        found.append(f"The same score on every seed: {joined(same)}.")
    if summary.ranks is not None and summary.ranks.left_out:
        found.append(
            f"Left out of the ranks, because a method has no score there: "
            f"{joined(summary.ranks.left_out)}."
        )
    return found


def _missing(summary: Summary) -> list[str]:
    scored = {(score.case, score.method) for score in summary.scores if score.values}
    return [
        f"{method} in {case}"
        for case in summary.cases
        for method in summary.methods
        if (case, method) not in scored
    ]


def _identical(summary: Summary) -> list[Comparison]:
    return [each for each in summary.comparisons if each.test == "identical"]
