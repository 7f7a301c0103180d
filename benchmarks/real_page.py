"""The command ``python -m benchmarks.real_page``: the rows of the real runs as JSON and as a page.

Reads what ``benchmarks.real_runs`` wrote, on the machine where it ran; what is missing is said to
be missing. Every sentence about who won is made from the numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_lines import CLEAR, Line, Row, difference, lines_of, ranked, statements
from benchmarks.real_runs import NOISES, PLAIN, PROBE, RESULTS, SEEDS, TUNING_SEED, Case, candidates
from benchmarks.real_runs import cases as known_cases
from tether.files import read_rows, write_json, write_text

PAGE = Path(__file__).parents[1] / "docs" / "results" / "real_runs.md"
DATA = {
    "clothing": "photographs of ten kinds of clothes (clothing-dataset-small)",
    "textures": "ten classes of the Describable Textures Dataset",
    "trec": "questions by what they ask for, six classes (TREC)",
    "sst2": "sentences of film reviews, two classes (SST-2)",
}
BAR = 5.0  # points that ELR or RegSL shall gain on noisy labels

# -- the page --------------------------------------------------------------------------------------


def page(document: Row) -> str:
    """The page as Markdown."""
    rows, machine = document["rows"], document["machine"]
    where = ", ".join(f"{key} {value}" for key, value in machine.items())
    seeds = ", ".join(map(str, SEEDS))
    text = [
        "# Methods on real data",
        "",
        "Written by `python -m benchmarks.real_page` from the runs of "
        "`python -m benchmarks.real_runs`; all rows stand in `benchmarks/results/real_runs.json`.",
        "",
        f"**Machine.** {where}. Every run has one thread, and two run side by side; seconds are "
        "those of training and its evaluations, on a machine that did other work beside; runs that "
        "were held up for long have none.",
        "",
        "**Models.** Images: MobileNetV2 with ImageNet weights and a new head. Texts: the sentence "
        "encoder MiniLM (all-MiniLM-L6-v2) with a new head. Every run is a `tether tune`.",
        "",
        "**Data.**",
        "",
        *(f"- {name}: {what}." for name, what in DATA.items()),
        "",
        "**Protocol.** The learning rate of plain fine-tuning is chosen for each data set and each "
        f"noise on seed {TUNING_SEED}, by validation accuracy of the last epoch; all methods use "
        "it. Their own settings are fixed beforehand, or chosen in the same way where several were "
        "tried; a data set may take the choices of another one (textures those of clothing, sst2 "
        f"those of trec). Results are on the other seeds, {seeds}: each draws other training "
        "samples, another order and another head. Wrong labels are put into the training data "
        "only; validation and test stay clean. The best epoch is the one with the best validation "
        "accuracy.",
        "",
        "**Reading.** Mean ± standard deviation over the seeds, in percent of the test set; "
        f"differences are paired over the seeds. A difference is called clear above {CLEAR:g} "
        f"standard errors. With {len(SEEDS)} seeds that is a weak test.",
        "",
    ]
    every = {case.name: case for case in known_cases()}
    names = [*every, *sorted({row["case"] for row in rows} - set(every))]
    sections: list[str] = []
    overview: list[tuple[str, ...]] = []
    for name in names:
        noises = [*NOISES, *sorted({r["noise"] for r in rows if r["case"] == name} - set(NOISES))]
        for noise in noises:
            lines, older = lines_of(rows, name, noise)
            sections += _section(name, noise, lines, older, every.get(name))
            overview.append(_overview(name, noise, lines))
        sections += _tried(name, rows)
    text += ["## In short", ""]
    text += _table(("data", "labels", PLAIN, PROBE, "best method", "against plain", ""), overview)
    text += [*_bars(rows), ""]
    return "\n".join([*text, *sections]).rstrip() + "\n"


def _section(
    name: str, noise: str, lines: dict[str, Line], older: int, case: Case | None
) -> list[str]:
    if not lines:
        return []
    text = [f"## {name}, {_labels(noise)}", "", *_missing(lines, case)]
    plain = lines.get(PLAIN)
    shared = plain or next(iter(lines.values()))
    table = []
    for line in sorted(lines.values(), key=lambda one: -one.mean):
        gap = difference(line, plain) if plain is not None and line is not plain else None
        table.append(
            (
                line.method,
                _short(line.settings, shared.settings, own=line is shared),
                _spread(line.scores("last")),
                _spread(line.scores("best")),
                _seconds(line.runs.values()),
                "" if gap is None else str(gap),
            )
        )
    text += _table(
        ("method", "settings", "last epoch", "best epoch", "seconds", "against plain"), table
    )
    text += [f"- {sentence}" for sentence in statements(lines)]
    if older:
        text.append(f"- {older} older runs with other settings are left out.")
    common = ", ".join(
        f"`{key}={_value(value)}`"
        for key, value in shared.settings.items()
        if key not in ("lr", "methods")
    )
    return [*text, "", f"Settings of plain: {common}.", ""]


def _overview(name: str, noise: str, lines: dict[str, Line]) -> tuple[str, ...]:
    def cell(line: Line | None) -> str:
        return "missing" if line is None else _spread(line.scores("last"))

    plain, probe = lines.get(PLAIN), lines.get(PROBE)
    methods = [line for line in lines.values() if line.method not in (PLAIN, PROBE)]
    if not methods:
        return (name, _labels(noise), cell(plain), cell(probe), "missing", "", "")
    best = ranked({line.method: line for line in methods})[0]
    gap = difference(best, plain) if plain is not None else None
    found = f"{best.method}, {_spread(best.scores('last'))}"
    clear = "" if gap is None else "clear" if gap.clear else "no clear difference"
    shown = "" if gap is None else str(gap)
    return (name, _labels(noise), cell(plain), cell(probe), found, shown, clear)


def _bars(rows: Sequence[Row]) -> list[str]:
    """Whether the methods for wrong labels gain what was asked of them."""
    said = []
    for name in ("clothing", "trec"):
        lines, _ = lines_of(rows, name, NOISES[1])
        plain = lines.get(PLAIN)
        gaps = {
            method: difference(lines[method], plain)
            for method in ("elr", "regsl") if plain is not None and method in lines
        }  # fmt: skip
        known = {method: gap for method, gap in gaps.items() if gap is not None}
        if not known:
            said.append(f"- {name}: not run yet.")
            continue
        won = any(gap.mean >= BAR for gap in known.values())
        shown = ", ".join(f"{method} {gap}" for method, gap in known.items())
        said.append(f"- {name}: {shown}: {'reached' if won else 'not reached'}.")
    goal = (
        f"The goal on {_labels(NOISES[1])}: ELR or RegSL ends at least {BAR:g} points above tuned "
        "plain fine-tuning."
    )
    return [goal, "", *said]


def _missing(lines: dict[str, Line], case: Case | None) -> list[str]:
    """What of the plan has not run."""
    expected = list(lines) if case is None else [PLAIN, *candidates(case, 0.0)]
    gaps = []
    for method in expected:
        left = [s for s in SEEDS if method not in lines or s not in lines[method].runs]
        if len(left) == len(SEEDS):
            gaps.append(f"`{method}`")
        elif left:
            gaps.append(f"`{method}` (seed {', '.join(map(str, left))})")
    return [f"Missing so far: {', '.join(gaps)}.", ""] if gaps else []


def _tried(name: str, rows: Sequence[Row]) -> list[str]:
    """What was tried on the seed for choosing."""
    mine = [row for row in rows if row["case"] == name and row["seed"] == TUNING_SEED]
    if not mine:
        return []
    base = next((row["settings"] for row in mine if row["method"] == PLAIN), mine[0]["settings"])
    table = [
        (
            _labels(row["noise"]),
            row["method"],
            _short(row["settings"], base, own=row["method"] == PLAIN),
            f"{100 * row['last']['validation']:.1f}",
        )
        for row in sorted(mine, key=lambda row: (row["noise"], row["method"]))
    ]
    head = ("labels", "method", "settings", "validation, last epoch")
    return [f"### {name}: what was tried on seed {TUNING_SEED}", "", *_table(head, table)]


# -- words -----------------------------------------------------------------------------------------


def _labels(noise: str) -> str:
    if not noise:
        return "clean labels"
    name, _, rate = noise.partition(":")
    return f"{100 * float(rate):g} % {name} noise"


def _spread(values: Sequence[float]) -> str:
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.fmean(values):.1f}{sd}"


def _short(settings: Row, plain: Row, *, own: bool) -> str:
    """The methods, and the options that differ from plain's; of plain its learning rate."""
    keys = ["lr"] if own else [k for k in settings if settings[k] != plain.get(k)]
    parts = [f"`{method}`" for method in settings.get("methods", [])]
    parts += [f"`{key}={_value(settings[key])}`" for key in keys if key != "methods"]
    return ", ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={_value(part)}" for key, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace(" ± ", "\u00a0±\u00a0")  # in one line

    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(cell, line)) + " |" for line in lines] + [""]


# -- the command -----------------------------------------------------------------------------------


def make_document(rows: list[Row]) -> Row:
    """All rows with what they were measured on.

    Raises:
        ValueError: a setting names a place of this machine.
    """
    from tether.machine import describe_machine

    for row in rows:
        for key, value in row["settings"].items():
            if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
                raise ValueError(f"{row['case']}: {key}={value} names a place of this machine")
    machine = describe_machine("timm", "transformers")
    return {"machine": machine, "seeds": SEEDS, "tuning_seed": TUNING_SEED, "rows": rows}


def _seconds(rows: Iterable[Mapping[str, Any]]) -> str:
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return f"{statistics.fmean(known):.0f}" if known else "–"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_page", description=__doc__)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--json", type=Path, default=RESULTS.with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    document = make_document(read_rows(options.rows))
    write_json(options.json, document)
    write_text(options.page, page(document))
    print(json.dumps({"rows": len(document["rows"])}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
