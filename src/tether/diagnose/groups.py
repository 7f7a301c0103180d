"""All steps of a diagnosis, in their order: a new group of steps is one file and one line here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tether.diagnose import (
    confidence,
    course,
    curvature,
    distances,
    features,
    flatness,
    memorisation,
    robustness,
    scores,
)
from tether.diagnose.steps import Group, Step

GROUPS: tuple[Group, ...] = (
    scores.GROUP,
    memorisation.GROUP,
    distances.GROUP,
    features.GROUP,
    replace(flatness.GROUP, steps=(*flatness.GROUP.steps, *curvature.STEPS)),
    confidence.GROUP,
    robustness.GROUP,
    course.GROUP,
)


def all_steps() -> Iterator[Step]:
    """Every step, in the order in which they are taken."""
    for group in GROUPS:
        yield from group.steps
