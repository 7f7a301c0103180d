"""Rows of the real runs by method, their differences, and what may be said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.real_runs import PLAIN, PROBE, TUNING_SEED

#: Paired mean difference, in its standard errors, from which it counts as clear.
CLEAR = 2.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """The runs of a method on a case, all with the same settings.

    Attributes:
        method: its name in the rows.
        settings: options of ``tether tune``.
        runs: seed -> row.
    """

    method: str
    settings: Row
    runs: dict[int, Row]

    def scores(self, which: str) -> list[float]:
        """Test accuracies in percent, ``"last"`` or ``"best"``, in the order of the seeds."""
        return [100.0 * self.runs[seed][which]["test"] for seed in sorted(self.runs)]

    @property
    def mean(self) -> float:
        """Mean test accuracy of the last epoch."""
        return statistics.fmean(self.scores("last"))


@dataclass(frozen=True)
class Difference:
    """Points between two methods, seed by seed."""

    points: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.points)

    @property
    def sd(self) -> float:
        """Over the seeds; not a number with one."""
        return statistics.stdev(self.points) if len(self.points) > 1 else math.nan

    @property
    def clear(self) -> bool:
        """Whether the mean exceeds two of its standard errors; one seed shows nothing."""
        error = self.sd / math.sqrt(len(self.points))
        return len(self.points) > 1 and abs(self.mean) > CLEAR * error

    def __str__(self) -> str:
        spread = f" ± {self.sd:.1f}" if len(self.points) > 1 else ""
        return f"{self.mean:+.1f}{spread}"


def difference(line: Line, other: Line, which: str = "last") -> Difference | None:
    """``line`` minus ``other`` on the seeds that both have; None without any."""
    common = sorted(line.runs.keys() & other.runs.keys())
    gaps = [line.runs[s][which]["test"] - other.runs[s][which]["test"] for s in common]
    return Difference(tuple(100.0 * gap for gap in gaps)) if gaps else None


def lines_of(rows: Iterable[Row], case: str, noise: str) -> tuple[dict[str, Line], int]:
    """Method -> its runs with the settings of its newest row, and how many rows that leaves out."""
    mine = [
        row for row in rows
        if row["case"] == case and row["noise"] == noise and row["seed"] != TUNING_SEED
    ]  # fmt: skip
    newest = {row["method"]: row["settings"] for row in mine}
    kept = [row for row in mine if row["settings"] == newest[row["method"]]]
    lines = {
        method: Line(
            method, settings, {row["seed"]: row for row in kept if row["method"] == method}
        )
        for method, settings in newest.items()
    }
    return lines, len(mine) - len(kept)


def ranked(lines: dict[str, Line]) -> list[Line]:
    """The methods that have run on the most seeds, best first; fewer seeds are not compared."""
    most = max(len(line.runs) for line in lines.values())
    return sorted((x for x in lines.values() if len(x.runs) == most), key=lambda x: -x.mean)


def statements(lines: dict[str, Line]) -> list[str]:
    """What the numbers say, also where they say nothing.

    Args:
        lines: method -> its runs, on one case.
    """
    plain, probe = lines.get(PLAIN), lines.get(PROBE)
    said = []
    first, *others = ranked(lines)
    if plain is None:
        said.append(
            f"Best at the last epoch: **{first.method}**. Plain is missing to compare with."
        )
    elif first is plain:
        said.append(
            "Best at the last epoch: **plain fine-tuning**. No other that ran on as many seeds "
            "ends higher."
        )
    else:
        said.append(
            f"Best at the last epoch: **{first.method}**, {_judged(difference(first, plain))}."
        )
    gaps = {line.method: difference(first, line) for line in others}
    close = [method for method, gap in gaps.items() if gap is not None and not gap.clear]
    if close:
        said.append(f"Not clearly behind the best: {listed(close)}.")
    if plain is not None:
        said += _against_plain(lines, plain)
    if probe is None:
        said.append("The linear probe is missing to compare with.")
    else:
        said += _against_probe(lines, probe)
    return said


def _against_plain(lines: dict[str, Line], plain: Line) -> list[str]:
    gaps = _gaps(lines, plain)
    groups = {
        "Clearly better than plain": [m for m, g in gaps.items() if g.clear and g.mean > 0],
        "Clearly worse than plain": [m for m, g in gaps.items() if g.clear and g.mean < 0],
        "No clear difference to plain": [m for m, g in gaps.items() if not g.clear],
    }
    said = [f"{what}: {listed(names)}." for what, names in groups.items()]
    same = [m for m, g in gaps.items() if not any(g.points) and len(g.points) > 1]
    if same:
        said.append(
            f"Equal to plain on every seed, so with these settings it hardly acted: {listed(same)}."
        )
    return said


def _against_probe(lines: dict[str, Line], probe: Line) -> list[str]:
    below = {m: gap for m, gap in _gaps(lines, probe).items() if gap.mean < 0}
    if not below:
        return ["No fine-tuning ends below the linear probe."]
    named = ", ".join(
        f"`{method}` ({gap}{'' if gap.clear else ', not clear'})" for method, gap in below.items()
    )
    best = _gaps(lines, probe, "best")
    still = [method for method in below if best[method].mean < 0]
    return [
        f"**Below the linear probe at the last epoch: {named}.** On clean labels that is a fault "
        "to be found (learning rate of the head, batch-norm statistics), not a result; wrong "
        "labels that were memorised do the same.",
        f"Of these, below the linear probe at the best epoch, too: {listed(still)}.",
    ]


def _gaps(lines: dict[str, Line], other: Line, which: str = "last") -> dict[str, Difference]:
    """Method -> its difference to another one, where they have a seed in common."""
    gaps = {m: difference(line, other, which) for m, line in lines.items() if line is not other}
    return {method: gap for method, gap in gaps.items() if gap is not None}


def listed(names: Iterable[str]) -> str:
    """Names as code, since some hold commas; ``none`` without any."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def _judged(gap: Difference | None) -> str:
    if gap is None:
        return "without a seed in common with plain"
    if len(gap.points) == 1:
        return f"{gap} points against plain on one seed, which shows nothing"
    points = f"{gap} points against plain over {len(gap.points)} seeds"
    if not gap.clear:
        return f"{points}: no clear difference"
    return f"{points}: more than {CLEAR:g} standard errors"
