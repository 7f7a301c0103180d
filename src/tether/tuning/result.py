"""What a run came to."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULT_FILE = "result.json"


@dataclass
class Result:
    """What ``tether tune`` gives back, and keeps as ``RUN/result.json``.

    Attributes:
        run_dir: the run folder.
        metric: name of the metric that chose the best epoch.
        last: split -> metric -> value, with the weights of the last epoch.
        best: the same with the weights of the best epoch on the validation split.
        best_epoch: that epoch, counted from 1 over all stages' own epochs; 0 without any.
        epochs: epochs that were trained, over all stages.
        steps: updates of the optimiser.
        seconds: time spent in training and its evaluations, breaks left out.
        stopped_early: whether the patience ran out.
        methods: the methods of the last stage, spelt out.
        history: one row an evaluation, as in ``metrics.jsonl``.
        sequence: of a run over several tasks what ``SequenceResult.as_json`` gives: accuracies
            after each task on each task, forgetting, forward transfer; else None. ``last`` and
            ``best`` are then those of the last task's data.
    """

    run_dir: str
    metric: str
    last: dict[str, dict[str, float]]
    best: dict[str, dict[str, float]]
    best_epoch: float
    epochs: float
    steps: int
    seconds: float
    stopped_early: bool
    methods: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    sequence: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines for people."""
        splits = [s for s in ("validation", "test") if s in self.last]
        lines = [f"{'':<12}" + "".join(f"{s:>14}" for s in splits) + f"   ({self.metric})"]
        for name, scores in (("last epoch", self.last), ("best epoch", self.best)):
            cells = "".join(f"{scores[s].get(self.metric, float('nan')):>14.4f}" for s in splits)
            lines.append(f"{name:<12}{cells}")
        early = ", stopped early" if self.stopped_early else ""
        lines.append(
            f"{self.epochs:g} epochs, {self.steps} updates, {self.seconds:.1f} s{early}; "
            f"best epoch {self.best_epoch:g}; {self.run_dir}"
        )
        if self.sequence is not None:
            from tether.continual.outcome import SequenceResult

            lines.append(SequenceResult.from_json(self.sequence).summary())
        return "\n".join(lines)

    @classmethod
    def read(cls, run: str | Path) -> Result:
        """The result that a finished run folder holds."""
        kept = json.loads((Path(run) / RESULT_FILE).read_text(encoding="utf-8"))
        for scores in (*kept["last"].values(), *kept["best"].values()):
            scores.update({name: math.nan for name, value in scores.items() if value is None})
        return cls(**kept)
