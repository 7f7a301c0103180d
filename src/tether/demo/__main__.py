"""The command ``python -m tether.demo``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tether.demo.experiments import EXPERIMENTS
from tether.demo.page import make_page
from tether.demo.pool import run_all
from tether.demo.progress import Progress
from tether.demo.summary import Results, text_table
from tether.machine import available_cores, describe_machine
from tether.report.extras import require

DEFAULT_SEEDS, QUICK_SEEDS, QUICK_EPOCHS = 5, 2, 30


class _Parser(argparse.ArgumentParser):
    """Bad input: exit code 2 and one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _count(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tether.demo",
        description="Fine-tune a small pretrained network on handwritten digits, plain and "
        "regularised, with wrong labels and with few labels; print a table, write a page.",
    )
    parser.add_argument("--seeds", type=_count, metavar="N", help="runs a method (default 5)")
    parser.add_argument("--seed", type=_seed, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--epochs", type=_count, metavar="N", help="epochs of every run (default 80 and 100)"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs/demo"), metavar="DIR",
        help="where to write report.html (default runs/demo)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="two seeds and 30 epochs, where not given otherwise"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run both experiments; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(given)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else DEFAULT_SEEDS)
    epochs = options.epochs or (QUICK_EPOCHS if options.quick else None)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output-dir: {options.output_dir}: {error.strerror}")
    try:
        _check_packages()
    except ImportError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    started = time.perf_counter()
    jobs = [
        (name, method, seed)
        for name, experiment in EXPERIMENTS.items()
        for seed in range(options.seed, options.seed + seeds)
        for method in experiment.methods
    ]
    with Progress(len(jobs)) as progress:
        workers = min(2, available_cores())
        runs = run_all(jobs, epochs=epochs, workers=workers, done=progress.advance)
    results = {
        name: Results(experiment, [run for run in runs if run.experiment == name])
        for name, experiment in EXPERIMENTS.items()
    }
    machine = describe_machine("numpy", "scikit-learn")
    seconds = time.perf_counter() - started
    command = shlex.join(["python", "-m", "tether.demo", *given])
    page = make_page(results, machine=machine, seconds=seconds, command=command)
    path = page.write(options.output_dir / "report.html")

    if options.json:
        document = {
            "seeds": results["noisy_labels"].seeds,
            "experiments": {name: result.as_json() for name, result in results.items()},
            "machine": machine,
            "seconds": seconds,
            "report": str(path),
        }
        print(json.dumps(document, indent=2, allow_nan=False))
        return 0
    for result in results.values():
        print(text_table(result), end="\n\n")
    print("* the best epoch on the test set itself, which nobody can choose in practice")
    print(f"{seconds:.0f} seconds; page: {path}")
    return 0


def _check_packages() -> None:
    """Fail before the work, not after it."""
    require("jinja2")
    require("matplotlib")
    try:
        import sklearn.datasets  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"the digits come with scikit-learn, which could not be imported ({error}); install "
            'it with: pip install "tether[labels]"'
        ) from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
