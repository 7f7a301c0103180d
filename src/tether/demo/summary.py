"""Many runs as numbers: by method and seed, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tether import Method
from tether.demo.experiments import PLAIN, Experiment
from tether.demo.run import Run

#: Quantity -> its value in a run.
QUANTITIES: dict[str, Callable[[Run], float]] = {
    "accuracy_last": lambda run: run.curves["test_accuracy"][-1],
    "accuracy_best": lambda run: max(run.curves["test_accuracy"]),
    "memorized": lambda run: run.curves["memorized"][-1],
    "correction_precision": lambda run: (run.corrections or {}).get("precision", math.nan),
    "correction_recall": lambda run: (run.corrections or {}).get("recall", math.nan),
    "norm": lambda run: run.curves["norm"][-1],
    "norm_before": lambda run: run.curves["norm"][0],
    "entropy": lambda run: run.curves["entropy"][-1],
    "entropy_before": lambda run: run.curves["entropy"][0],
    "seconds": lambda run: run.seconds,
}


class Results:
    """The runs of one experiment: every method on the same seeds.

    Args:
        experiment: what was run.
        runs: its runs, in any order.
    """

    def __init__(self, experiment: Experiment, runs: Sequence[Run]) -> None:
        self.experiment = experiment
        self.runs = {
            method: sorted((r for r in runs if r.method == method), key=lambda run: run.seed)
            for method in experiment.methods
        }
        self.seeds = [run.seed for run in self.runs[PLAIN]]
        self.epochs = len(self.runs[PLAIN][0].curves["epoch"]) - 1

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the plain baseline first."""
        return list(self.runs)

    def values(self, method: str, quantity: str) -> list[float]:
        """A quantity of every seed, in the order of ``seeds``."""
        return [QUANTITIES[quantity](run) for run in self.runs[method]]

    def mean(self, method: str, quantity: str) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values(method, quantity)))

    def spread(self, method: str, quantity: str) -> float:
        """Standard deviation over the seeds; of a single one not a number."""
        values = self.values(method, quantity)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def gains(self, method: str) -> list[float]:
        """Accuracy at the last epoch minus that of the plain run of the same seed."""
        pairs = zip(
            self.values(method, "accuracy_last"), self.values(PLAIN, "accuracy_last"), strict=True
        )
        return [own - plain for own, plain in pairs]

    def curves(self, method: str, quantity: str) -> list[list[float]]:
        """A curve of every seed."""
        return [run.curves[quantity] for run in self.runs[method]]

    @property
    def wrong_share(self) -> float:
        """Share of the training labels that are wrong, over all seeds."""
        labels = [run.labels for run in self.runs[PLAIN]]
        return float(np.mean([label["given"] != label["true"] for label in labels]))

    @property
    def title(self) -> str:
        """What the network was trained on."""
        samples = len(self.runs[PLAIN][0].labels["true"])
        wrong = f"{self.wrong_share:.0%} of them wrong" if self.wrong_share else "all of them right"
        return f"{self.experiment.title}: {samples} training labels, {wrong}"

    def options(self, method: str) -> str:
        """The method as code, with every number spelt out; nothing for the plain baseline."""
        return ", ".join(map(_spelt, self.experiment.make(method)))

    def as_json(self) -> dict[str, Any]:
        """All numbers, without the curves."""
        return {
            "recipe": self.experiment.recipe,
            "epochs": self.epochs,
            "methods": {
                method: {
                    "options": self.options(method),
                    **{
                        quantity: {
                            "mean": _number(self.mean(method, quantity)),
                            "sd": _number(self.spread(method, quantity)),
                            "values": [_number(v) for v in self.values(method, quantity)],
                        }
                        for quantity in QUANTITIES
                    },
                    "gain_over_plain": [_number(gain) for gain in self.gains(method)],
                }
                for method in self.methods
            },
        }


#: Heading, quantity and format of the columns of the text tables.
COLUMNS = (
    ("accuracy, last epoch", "accuracy_last", "{:.1%}"),
    ("best epoch*", "accuracy_best", "{:.1%}"),
    ("memorised", "memorized", "{:.1%}"),
    ("corr. precision", "correction_precision", "{:.1%}"),
    ("corr. recall", "correction_recall", "{:.1%}"),
    ("feature norm", "norm", "{:.1f}"),
    ("entropy", "entropy", "{:.0f}"),
    ("seconds", "seconds", "{:.1f}"),
)


def text_table(results: Results) -> str:
    """The means over the seeds, with the spread where there are several."""
    columns = [
        c for c in COLUMNS if not all(math.isnan(results.mean(m, c[1])) for m in results.runs)
    ]
    rows = [["", *(heading for heading, _, _ in columns)]]
    for method in results.methods:
        rows.append([method, *(_cell(results, method, q, shape) for _, q, shape in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([results.title, *lines])


def _cell(results: Results, method: str, quantity: str, shape: str) -> str:
    mean, spread = results.mean(method, quantity), results.spread(method, quantity)
    if math.isnan(mean):
        return "-"
    text = shape.format(mean)
    if math.isnan(spread) or quantity == "seconds":
        return text
    return f"{text} ± {shape.format(spread).rstrip('%')}"


def _spelt(method: Method) -> str:
    """Like its repr, with the numbers that stand at their defaults."""
    defaults = {name: option.default for name, option in method.info.options.items()}
    shown = [
        f"{name}={value!r}"
        for name, value in method.options().items()
        if (isinstance(value, (int, float)) and not isinstance(value, bool))
        or value != defaults[name]
    ]
    return f"{type(method).__name__}({', '.join(shown)})"


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
