"""The scaling check on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tether.compare import page_figures as figures
from tether.compare.summary import Summary
from tether.compare.summary_scaling import ScalingCheck, find_scales
from tether.compare.summary_scores import Row
from tether.report import Cell, Column, Page


def add_scaling(
    page: Page,
    summary: Summary,
    rows: Sequence[Row],
    meta: Mapping[str, Any],
    methods: Sequence[str],
    colors: figures.Colors,
) -> None:
    """A figure and a table for every set of cases that differ in size only.

    Args:
        page: gets the blocks.
        summary: the findings of the study.
        rows: its runs, whose cases tell the sizes.
        meta: what the study is.
        methods: the methods to draw.
        colors: colours of the methods.
    """
    for scale in find_scales(rows, meta.get("sizes") or {})[: figures.MOST_CASES]:
        mine = [c for c in summary.scaling if (c.axis, c.name) == (scale.axis, scale.name)]
        if not mine:
            continue
        page.add_figure(
            figures.scale_plot(summary, mine, scale.sizes, methods[:8], colors),
            f"{scale.name}: {summary.metric.replace('_', ' ')} by {scale.axis}",
            "Means with 95 % intervals over the seeds. A win at one size does not carry to "
            "another: see below whether the curves cross.",
        )
        page.add_table(
            [
                "method",
                "against",
                "curves",
                Column("crossing at", align="right", note=scale.axis),
                Column("95 % interval", align="right"),
                Column("change of leader", align="right", note="share of resamples"),
                Column("ahead at", align="right", note="extrapolated"),
            ],
            [_row(check, colors) for check in mine[:40]],
            f"Do the curves cross? {scale.name}.",
            note="Crossing: significant differences of opposite sign at two sizes. Likely: "
            "another leader at the largest size than at the smallest in 95 % of 1000 resamples of "
            "the seeds. The extrapolation by power laws is a rough guide, however high its share.",
        )


def _row(check: ScalingCheck, colors: figures.Colors) -> list[object]:
    found = check.crossing
    ends = found.interval
    more = found.crossings - 1
    ahead = None
    if math.isfinite(found.target):
        ahead = f"{_size(found.target)}: {100 * found.lead_at_target:.0f} %"
    return [
        Cell(check.method, color=colors[check.method]),
        check.against,
        Cell(check.verdict, strong=check.verdict == "crossing"),
        Cell(
            _size(found.at) if found.at is not None else None,
            note=f"and {more} more" if more > 0 else "",
        ),
        f"[{_size(ends[0])}; {_size(ends[1])}]" if ends else None,
        f"{100 * found.share:.0f} %" if math.isfinite(found.share) else "too few seeds",
        ahead,
    ]


def _size(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
