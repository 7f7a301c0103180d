"""The command ``python -m benchmarks.labels``: ``tether labels find`` beside cleanlab.

Needs ``TETHER_SHARED`` (see ``docs/results/real_runs.md``) and cleanlab (``pip install cleanlab``).
For every case one ``tether tune`` of the whole training set gives tether's list, and five of four
fifths each give cleanlab's: its ranking by self-confidence and by normalised margin, and its noise
rate, from their out-of-fold probabilities. Settings and seeds are those of ``label_cases.py``; all
runs are in one thread. What was trained stays in ``--work`` and is not trained again, so a list can
be scored anew in seconds. Rows go to ``results/labels.jsonl``, the page to
``docs/results/labels.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import label_digits
from benchmarks.label_cases import SHARED, Samples, load, tuned, write_tables

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "labels.md"
FOLDS = 5
#: Case, noise, seed and number of samples of the runs of real networks.
REAL = [
    ("cifar10n", "worst", 0, 1000), ("clothing", "symmetric:0.2", 0, 800),
    ("trec", "symmetric:0.2", 0, 300), ("cifar10n", "aggre", 0, 1000),
    ("cifar10n", "random1", 0, 1000), ("clothing", "pair:0.3", 0, 800),
    ("trec", "pair:0.3", 0, 300), ("clothing", "instance:0.3", 0, 800),
]  # fmt: skip
Job = tuple[str, str, int, int]


def name_of(job: Job) -> str:
    case, noise, seed, size = job
    return f"{case}-{noise.replace(':', '')}-{seed}-{size}"


# -- training --------------------------------------------------------------------------------------


def train(job: Job, work: Path, lock: Path | None) -> None:
    """The one run, and the five of the folds; each in a process of its own, which may be locked."""
    for part in range(-1, FOLDS):
        if done(job, part, work):
            continue
        command = [sys.executable, "-m", "benchmarks.labels", "--work", str(work)]
        command += ["--part", json.dumps([list(job), part])]
        if lock is not None:
            command = ["flock", str(lock), *command]
        subprocess.run(command, check=True)


def done(job: Job, part: int, work: Path) -> bool:
    return (work / name_of(job) / f"part{part}" / "DONE").exists()


def train_part(job: Job, part: int, work: Path) -> None:
    """Part -1 is the run on all samples, with a record; the others leave a fold out."""
    case, noise, seed, size = job
    samples, root = load(case, noise, seed, size, work), work / name_of(job)
    rows = np.arange(len(samples.labels))
    fold = folds_of(job, len(rows))
    inside = rows if part < 0 else rows[fold != part]
    outside = None if part < 0 else rows[fold == part]
    data = write_tables(root / f"data{part}", samples, inside, outside)
    more: dict[str, Any] = {} if part < 0 else {"record": False, "save_total_limit": 0}
    began = time.process_time()
    tuned(data, root / f"part{part}", case, seed, **more)
    (root / f"seconds{part}").write_text(f"{time.process_time() - began:.1f}")


def folds_of(job: Job, size: int) -> NDArray[np.int64]:
    return np.random.default_rng(job[2]).permutation(size) % FOLDS


def out_of_fold(job: Job, samples: Samples, work: Path) -> NDArray[np.float64]:
    """Probabilities ``[n, K]`` of every sample by the run that left it out."""
    shares = np.zeros((len(samples.labels), len(samples.names)))
    fold = folds_of(job, len(shares))
    for part in range(FOLDS):
        path = work / name_of(job) / f"part{part}" / "predictions-test.csv"
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        shares[fold == part] = [[float(row[f"p_{n}"]) for n in samples.names] for row in rows]
    return shares


# -- scoring ---------------------------------------------------------------------------------------


def score_job(job: Job, work: Path) -> dict[str, Any]:
    """One row: how well the lists rank, what they say of the noise, and what they cost."""
    from tether.labels.find import find

    case, noise, seed, size = job
    samples = load(case, noise, seed, size, work)
    root = work / name_of(job)
    began = time.process_time()
    found = find(root / "part-1")
    seconds = time.process_time() - began
    scores = np.zeros(len(samples.labels))
    suggested = np.full(len(scores), -1)
    for row, suspect in found.suspects:
        scores[row] = suspect.score
        suggested[row] = list(samples.names).index(suspect.suggested)
    trained = [float((root / f"seconds{part}").read_text()) for part in range(-1, FOLDS)]
    return {
        "case": case, "noise": noise, "seed": seed, "size": size,
        **judged(scores, suggested, found.summary, samples.labels, samples.given),
        **cleanlab_scores(out_of_fold(job, samples, work), samples.labels, samples.given),
        "cleanlab on a linear probe": probed(root / "part-1", samples),
        "seconds": {"run": trained[0], "find": round(seconds, 1), "folds": sum(trained[1:])},
    }  # fmt: skip


def probed(run: Path, samples: Samples) -> dict[str, Any]:
    """What cleanlab makes of a linear probe on the frozen pretrained features, out of fold."""
    from tether.labels.first_weights import first_weights
    from tether.labels.folds import out_of_fold as probe
    from tether.models.features import features_of
    from tether.tuning.opened import open_run

    opened = open_run(run)
    table = opened.assembly.source.tables["train"]
    with first_weights(opened) as loaded:
        logs = probe(features_of(loaded, table, tokens="mean"), table.labels, len(samples.names))
    names = opened.assembly.source.class_names  # in the data's own order
    shares = np.exp(logs)[:, [names.index(name) for name in samples.names]]
    found = cleanlab_scores(shares, samples.labels, samples.given)
    return {**found["cleanlab self"], "rate": found["cleanlab rate"],
            "fold accuracy": found["fold accuracy"]}  # fmt: skip


def judged(
    scores: NDArray[Any], suggested: NDArray[Any], summary: dict[str, Any], true: NDArray[Any],
    given: NDArray[Any],
) -> dict[str, Any]:  # fmt: skip
    """What is known of tether's list where the true labels are."""
    from tether.measure import auroc, average_precision

    wrong = true != given
    clean = not wrong.any()
    return {
        "wrong": float(wrong.mean()),
        "tether": {
            "ap": None if clean else average_precision(scores.tolist(), wrong.tolist()),
            "auroc": None if clean else auroc(scores.tolist(), wrong.tolist()),
            "rate": summary["noise_rate"],
            "interval": summary["noise_rate_interval"],
            "calibration": calibration(scores, wrong),
            "suggestions": None if clean else float((suggested == true)[wrong].mean()),
        },
    }


def calibration(scores: NDArray[Any], wrong: NDArray[Any], bins: int = 10) -> float:
    """Mean distance of score and share of wrong labels over bins of equal width."""
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    return float(sum(
        abs(scores[place == b].mean() - wrong[place == b].mean()) * (place == b).mean()
        for b in np.unique(place)
    ))  # fmt: skip


def cleanlab_scores(
    shares: NDArray[np.float64], true: NDArray[Any], given: NDArray[Any]
) -> dict[str, Any]:
    """What cleanlab makes of the same model's out-of-fold probabilities."""
    from cleanlab.count import compute_confident_joint, num_label_issues
    from cleanlab.rank import get_label_quality_scores

    from tether.measure import auroc, average_precision

    wrong = (true != given).tolist()
    found: dict[str, Any] = {}
    for short, method in (("self", "self_confidence"), ("margin", "normalized_margin")):
        scores = (-get_label_quality_scores(given, shares, method=method)).tolist()
        clean = not any(wrong)
        found[f"cleanlab {short}"] = {
            "ap": None if clean else average_precision(scores, wrong),
            "auroc": None if clean else auroc(scores, wrong),
        }
    joint = compute_confident_joint(given, shares)
    found["cleanlab rate"] = float(num_label_issues(given, shares, confident_joint=joint)
                                   / len(given))  # fmt: skip
    found["fold accuracy"] = float((shares.argmax(1) == true).mean())
    return found


# -- rows ------------------------------------------------------------------------------------------


def key(row: dict[str, Any]) -> Sequence[Any]:
    return [row[name] for name in ("case", "noise", "seed", "size")]


def save(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """The rows of a file, those of the same job replaced."""
    fresh = list(rows)
    kept = [row for row in read(path) if key(row) not in [key(each) for each in fresh]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *fresh]))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a case and noise, means over the seeds."""
    lines = [
        "# Wrong labels found", "",
        "Written by `python -m benchmarks.labels` (its docstring says what is run); rows stand in",
        "`benchmarks/results/labels.jsonl`. *tether*: average precision of the ranking of",
        "`tether labels find` after one run; *cleanlab*: of cleanlab's self-confidence on",
        "out-of-fold probabilities of five trainings of the same model; *probe*: of cleanlab on a",
        "linear classifier, out of fold, on the frozen pretrained features. *rate*: the estimated",
        "share of wrong labels, beside the true one (*wrong*). *calibration*: expected error of",
        "the score as a probability. Seconds are processor time of one thread, on a machine that",
        "did other work beside. `cifar10n` holds mistakes of people; other noise was put in.",
        "The limits within which the rate is told were chosen on these same data sets.", "",
        "| case | noise | samples | seeds | wrong | tether | cleanlab, 5 trainings | probe "
        "| rate | cleanlab's rate | calibration | run + find | folds | their accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case, noise in dict.fromkeys((row["case"], row["noise"]) for row in rows):
        mine = [row for row in rows if (row["case"], row["noise"]) == (case, noise)]

        def mean(get: Any, of: Sequence[dict[str, Any]] = mine) -> float:
            found = [get(row) for row in of]
            return float("nan") if None in found else float(np.mean(found))

        cells = [
            case, noise, mine[0]["size"], len(mine), f"{mean(lambda r: r['wrong']):.3f}",
            *(f"{mean(lambda r, n=n: r[n]['ap']):.3f}"
              for n in ("tether", "cleanlab self", "cleanlab on a linear probe")),
            f"{mean(lambda r: r['tether']['rate']):.3f}",
            f"{mean(lambda r: r['cleanlab rate']):.3f}",
            f"{mean(lambda r: r['tether']['calibration']):.3f}",
            f"{mean(lambda r: r['seconds']['run']):.0f} + "
            f"{mean(lambda r: r['seconds']['find']):.0f}",
            f"{mean(lambda r: r['seconds']['folds']):.0f}",
            f"{mean(lambda r: r['fold accuracy']):.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)).replace("nan", "-") + " |")
    return "\n".join([*lines, "", *misses(rows)]) + "\n"


def misses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What fell short: the ranking beside cleanlab's, the rate on noise that was put in."""
    found = []
    for row in rows:
        name = f"{row['case']}, {row['noise']}, seed {row['seed']}"
        ours, theirs = row["tether"]["ap"], row["cleanlab self"]["ap"]
        if ours is not None and theirs is not None and ours < theirs:
            found.append(f"- {name}: cleanlab ranks better by {theirs - ours:.3f}")
        if abs(row["tether"]["rate"] - row["wrong"]) > 0.03:
            found.append(
                f"- {name}: the rate is told as {row['tether']['rate']:.1%}, it is "
                f"{row['wrong']:.1%}"
            )
    return ["What fell short:", "", *(found or ["- nothing"])]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/labels"))
    parser.add_argument("--cases", nargs="*", help="names (default all)")
    parser.add_argument("--only", choices=("train", "score"), help="one half of the work")
    parser.add_argument("--lock", type=Path, help="a file that trainings of several machines share")
    parser.add_argument("--output", type=Path, default=RESULTS / "labels.jsonl")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.part:
        job, part = json.loads(options.part)
        train_part(tuple(job), part, options.work)
        return 0
    if not (SHARED / "data").is_dir():
        parser.error(f"no data in {SHARED}: set TETHER_SHARED")
    wanted = options.cases or ["cifar10n", "clothing", "trec", "digits"]
    for job in [job for job in REAL if job[0] in wanted]:
        if options.only != "score":
            train(job, options.work, options.lock)
        if options.only != "train" and all(done(job, p, options.work) for p in range(-1, FOLDS)):
            save([score_job(job, options.work)], options.output)
    if "digits" in wanted and options.only != "train":
        for row in label_digits.rows():
            save([row], options.output)
    PAGE.write_text(table(read(options.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
