"""Closing the loop on digits: find suspects, review a few of them, apply, train again.

    python -m benchmarks.label_loop

For each seed: fine-tuning on the true labels, on labels of which 40 % were drawn anew, and on those
labels after a review of the most suspicious 15 % of the training samples, in which the reviewer
knows the true labels. The review goes through the same list and journal as the page, the
corrections through ``tether labels apply``. Told is the test accuracy after the last epoch, and
which share of the accuracy lost to the wrong labels has come back; and the same with as many
samples picked at random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tether.data import load_data
from tether.labels.apply import apply_corrections
from tether.labels.find import find
from tether.labels.journal import Entry, Journal, now
from tether.tuning.job import tune
from tether.tuning.options import TuneConfig

SETTINGS: dict[str, Any] = {
    "model": "demo:digits", "epochs": 40, "lr": 0.05, "optim": "sgd", "batch_size": 32,
    "lr_scheduler": "constant", "weight_decay": 0.0, "epoch_measures": False,
}  # fmt: skip
REVIEWED = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=REVIEWED, help="of the samples, reviewed")
    parser.add_argument("--random", action="store_true", help="also as many at random")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(Path(folder), seed, options.share, options.random))
        print(json.dumps(rows[-1]), flush=True)
    for name in [name for name in rows[0] if name.startswith("recovered")]:
        shares = [row[name] for row in rows]
        spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
        print(f"{name}: {statistics.mean(shares):.2f} +- {spread:.2f} of what was lost "
              f"(least {min(shares):.2f})")  # fmt: skip


def one_seed(folder: Path, seed: int, share: float, random: bool) -> dict[str, float]:
    source = load_data(TuneConfig(data="demo:digits", seed=seed))
    true = source.tables["train"].true_labels
    given = source.tables["train"].labels
    assert true is not None and given is not None
    noisy = write(folder / "noisy.npz", source, given)
    scores = {
        "clean": accuracy(write(folder / "clean.npz", source, true), folder / "clean", seed),
        "noisy": accuracy(noisy, folder / "noisy", seed, record=True),
    }
    count = round(share * len(given))
    suspects = find(folder / "noisy", seed=seed).suspects
    reviewed = [row for row, _ in suspects[:count]]
    chance = np.random.default_rng(seed).permutation(len(given))[:count].tolist()
    answers = {"reviewed": reviewed, **({"at random": chance} if random else {})}
    guess = dict(suspects)
    for name, rows in answers.items():
        journal = folder / f"{name}.csv"
        review(journal, rows, guess, true, given)
        apply_corrections(journal, noisy, folder / f"{name}.npz")
        scores[name] = accuracy(folder / f"{name}.npz", folder / name, seed)
    lost = scores["clean"] - scores["noisy"]
    return {
        "seed": seed, "wrong": float((true != given).mean()),
        "wrong among the reviewed": float((true != given)[reviewed].mean()),
        **{name: round(value, 4) for name, value in scores.items()},
        **{
            name.replace("reviewed", "recovered").replace("at", "recovered at"):
            round((scores[name] - scores["noisy"]) / lost, 3) for name in answers
        },
    }  # fmt: skip


def write(path: Path, source: Any, labels: Any) -> Path:
    arrays = {"class_names": np.array(source.class_names)}
    for split, table in source.tables.items():
        arrays[f"{split}_features"] = np.stack(table.inputs)
        arrays[f"{split}_labels"] = labels if split == "train" else table.labels
    np.savez(path, **arrays)
    return path


def accuracy(data: Path, run: Path, seed: int, *, record: bool = False) -> float:
    """After the last epoch; what labels find needs is kept only where it is asked for."""
    kept = {"record": record, "save_total_limit": 1 if record else 0}
    result = tune({**SETTINGS, **kept, "data": str(data), "output_dir": str(run), "seed": seed})
    return result.last["test"]["accuracy"]


def review(path: Path, rows: list[int], guess: Any, true: Any, given: Any) -> None:
    """Decide as somebody does who knows the true labels."""
    entries = []
    for number, row in enumerate(rows):
        suspect, label = guess[row], str(true[row])
        decision = (
            "keep" if label == suspect.given else
            "accept" if label == suspect.suggested else "other"
        )  # fmt: skip
        entries.append(Entry(now(), suspect.id, suspect.split, suspect.given, decision, label,
                             number, "0123456789abcdef"))  # fmt: skip
    Journal(path).add(entries)


if __name__ == "__main__":
    main()
