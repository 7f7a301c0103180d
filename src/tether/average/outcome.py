"""What an average came to: the candidates with their scores, which one it is, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tether.files import replaced_file, write_json
from tether.models.card import escaped

FILE = "average.json"
Scores = dict[str, dict[str, float]]


@dataclass
class Candidate:
    """One average that was looked at.

    Attributes:
        name: ``"alpha 0.5"``, ``"run a"``, ``"a + b"``.
        alpha: of an interpolation: share of the fine-tuned weights; else None.
        runs: which runs are in it, counted from 0.
        scores: split -> metric -> value.
        kept: of a greedy soup: whether it did no worse than the soup before; else None.
    """

    name: str
    alpha: float | None
    runs: list[int]
    scores: Scores
    kept: bool | None = None


@dataclass
class Average:
    """An average of weights, written as an ordinary model.

    Attributes:
        kind: ``"interpolation"``, ``"uniform soup"`` or ``"greedy soup"``.
        runs: folders of the runs.
        weights: which weights of theirs: ``"best"``, ``"last"`` or ``"exported"``.
        metric: what the choice was made by, on the validation split.
        higher: whether more of it is better.
        chosen: the place of what was written among the candidates.
        candidates: all that was scored, in the order in which it was.
        batch_norm: how running statistics were made; empty without any.
        notes: what the reader should know.
        output: the folder.
    """

    kind: str
    runs: list[str]
    weights: str
    metric: str
    higher: bool
    chosen: int
    candidates: list[Candidate]
    batch_norm: str
    notes: list[str] = field(default_factory=list)
    output: str = ""

    @property
    def best(self) -> Candidate:
        """What was written."""
        return self.candidates[self.chosen]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return asdict(self)

    def table(self) -> list[list[str]]:
        """A row a candidate: name, then the metric on each split."""
        splits = list(dict.fromkeys(split for one in self.candidates for split in one.scores))
        rows = [["", *splits]]
        for place, one in enumerate(self.candidates):
            cells = [_cell(one.scores.get(split), self.metric) for split in splits]
            mark = " <" if place == self.chosen else " (left out)" if one.kept is False else ""
            rows.append([one.name + mark, *cells])
        return rows

    def summary(self) -> str:
        """A few lines for people."""
        rows = self.table()
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(max(width, 10))
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        made = f" of {len(self.best.runs)} of {len(self.runs)} runs" if len(self.runs) > 1 else ""
        lines.append(f"{self.kind}{made}: {self.best.name}, by {self.metric}; {self.output}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _chosen_on(self) -> list[str]:
        if self.kind == "uniform soup" or len(self.candidates) < 2:
            return []
        return ["It was chosen on the validation data, so its value there is a little too good."]

    def write(self, folder: Path, how_to_load: str) -> None:
        """``average.json`` beside the model, and ``README.md`` in it."""
        write_json(folder / FILE, self.as_json())
        rows = self.table()
        grid = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        names = ", ".join(escaped(Path(run).name) for run in self.runs)
        text = [
            f"# {escaped(folder.name)}",
            f"An average of weights made with tether average: {self.kind}, "
            f"{escaped(self.best.name)}, of the {self.weights} weights of {names}.",
            *(escaped(note) for note in self.notes),
            f"## Results ({escaped(self.metric)})",
            "\n".join("| " + " | ".join(escaped(c) if c != "---" else c for c in row) + " |"
                      for row in grid),
            *self._chosen_on(),
            "## How to load",
            f"```python\n{how_to_load.rstrip()}\n```",
        ]  # fmt: skip
        with replaced_file(folder / "model" / "README.md") as fresh:
            fresh.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cell(scores: Mapping[str, float] | None, metric: str) -> str:
    return "-" if scores is None or metric not in scores else f"{scores[metric]:.4f}"
