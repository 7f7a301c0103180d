"""Averages of finished runs: with the weights they began with, and with one another."""

from typing import TYPE_CHECKING

from tether.lazy import lazy_names

if TYPE_CHECKING:
    from tether.average.job import average_runs as average_runs
    from tether.average.outcome import Average as Average

__all__ = ["Average", "average_runs"]

if not TYPE_CHECKING:
    _HOME = {"average_runs": "tether.average.job", "Average": "tether.average.outcome"}
    __getattr__ = lazy_names(__name__, _HOME)
