"""Lint, types and all tests, group by group, with the seconds that each took.

Two groups run at a time, each in one process and the longest first; a group's output is printed
when it has ended. A single group that is asked for has both cores, and prints as it goes.

Every group runs even when an earlier one failed; the exit code is 1 when any failed. A folder
under ``tests/`` that has a line in ``GROUPS`` is a group of its own; everything else there is the
group ``unit``, so that a new test file cannot be forgotten.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LINTED = ("src", "tests", "tools", "docs", "benchmarks", "examples")
LANES = 2
PARALLEL = ("-n", str(LANES), "--dist", "worksteal")


@dataclass(frozen=True)
class Group:
    """Tests that run in one call of pytest.

    Attributes:
        paths: where they are.
        options: always given to pytest.
        alone: given as well where nothing runs beside.
    """

    paths: tuple[str, ...]
    options: tuple[str, ...] = ()
    alone: tuple[str, ...] = PARALLEL


# The longest first, so that both lanes end together. The contract has a pair of ranks of its own.
# The documentation is built, and the walk of CONTRIBUTING.md made, once a file.
GROUPS = {
    "tuning": Group(("tests/tuning",)),
    "compare": Group(("tests/compare",)),
    "docs": Group(
        ("tests/test_docs.py", "tests/test_packaging.py", "tests/test_readme.py"),
        alone=("-n", "2", "--dist", "loadfile"),
    ),
    "demo": Group(("tests/demo", "tests/benchmarks")),
    "diagnose": Group(("tests/diagnose",)),
    "labels": Group(("tests/labels",)),
    "contract": Group(("tests/contract",), alone=()),
    "integrations": Group(("tests/integrations",)),
    "cli": Group(("tests/cli",)),
    "continual": Group(("tests/continual", "tests/average")),
    "methods": Group(("tests/methods",)),
    "models": Group(("tests/models",)),
    "engine": Group(("tests/engine",)),
    "report": Group(("tests/report",)),
    "data": Group(("tests/data",)),
    "doctests": Group(("src/tether",), ("--doctest-modules", "-p", "no:cacheprovider"), ()),
}


@dataclass
class Result:
    """What a step came to."""

    seconds: float
    ok: bool
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def unit_group() -> Group:
    """Everything under ``tests/`` that is no group of its own."""
    taken = [path for group in GROUPS.values() for path in group.paths]
    return Group(("tests",), tuple(f"--ignore={path}" for path in taken))


def run(command: list[str], output: IO[bytes] | None) -> tuple[int, float]:
    """Run a command with one thread a process; its exit code and seconds."""
    # Two processes with a thread pool each are slower than two single threads on two cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **threads}, stdout=output, stderr=output
    )
    return done.returncode, time.perf_counter() - start


def run_lint(output: IO[bytes] | None) -> Result:
    """Ruff's rules, ruff's format, mypy in strict mode."""
    paths = [path for path in LINTED if (ROOT / path).is_dir()]
    commands = (
        [str(BIN / "ruff"), "check", *paths],
        [str(BIN / "ruff"), "format", "--check", *paths],
        [str(BIN / "mypy")],
    )
    outcomes = [run(command, output) for command in commands]
    failed = sum(code != 0 for code, _ in outcomes)
    return Result(sum(seconds for _, seconds in outcomes), failed == 0, failed=failed)


def run_group(group: Group, output: IO[bytes] | None) -> Result:
    """One call of pytest; the counts come from its own report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = (*group.options, *(group.alone if output is None else ()))
        command = [sys.executable, "-m", "pytest", "-q", *options, *group.paths]
        code, seconds = run([*command, f"--junit-xml={report}"], output)
        result = Result(seconds, code == 0)
        if report.exists():
            for suite in ElementTree.parse(report).getroot().iter("testsuite"):
                tests, failures, errors, skipped = (
                    int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
                )
                result.failed += failures + errors
                result.skipped += skipped
                result.passed += tests - failures - errors - skipped
    # A crash, or a group without a single test, fails although no test did.
    result.failed = max(result.failed, int(code != 0))
    return result


Step = Callable[[IO[bytes] | None], Result]


def run_all(asked: dict[str, Step]) -> dict[str, Result]:
    """All steps, so many at a time; a step alone prints as it goes."""
    if len(asked) == 1:
        return {name: step(None) for name, step in asked.items()}
    printing = threading.Lock()

    def one(name: str) -> Result:
        with tempfile.TemporaryFile() as output:
            result = asked[name](output)
            output.seek(0)
            with printing:
                print(f"\n== {name}\n{output.read().decode(errors='replace')}", flush=True)
        return result

    with ThreadPoolExecutor(LANES) as lanes:
        return dict(zip(asked, lanes.map(one, asked), strict=True))


def main() -> int:
    """Run the groups that were asked for, or all."""
    groups = {**GROUPS, "unit": unit_group()}
    steps: dict[str, Step] = {name: partial(run_group, group) for name, group in groups.items()}
    steps["lint"] = run_lint

    parser = argparse.ArgumentParser(description="Lint, types and tests, by group.")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(steps)}")
    asked = parser.parse_args().groups or list(steps)
    unknown = [name for name in asked if name not in steps]
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}; known: {', '.join(steps)}")

    began = time.perf_counter()
    results = run_all({name: steps[name] for name in asked})
    whole = time.perf_counter() - began
    print("\ngroup         seconds  passed  failed  skipped")
    for name, result in results.items():
        print(
            f"{name:<12}{result.seconds:>9.1f}{result.passed:>8}{result.failed:>8}"
            f"{result.skipped:>9}{'' if result.ok else '  FAILED'}"
        )
    passed, failed, skipped = (
        sum(getattr(result, field) for result in results.values())
        for field in ("passed", "failed", "skipped")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped in {whole:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
