"""Lint, types and all tests, group by group, with the seconds that each took.

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
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LINTED = ("src", "tests", "tools", "docs", "benchmarks", "examples")
PARALLEL = ("-n", "2", "--dist", "worksteal")


@dataclass(frozen=True)
class Group:
    """Tests that run in one call of pytest."""

    paths: tuple[str, ...]
    options: tuple[str, ...] = ()


# The contract has a pair of ranks of its own, so it does not share the cores with a second worker.
# The documentation is built, and the walk of CONTRIBUTING.md made, once a file.
GROUPS = {
    "engine": Group(("tests/engine",), PARALLEL),
    "methods": Group(("tests/methods",), PARALLEL),
    "contract": Group(("tests/contract",)),
    "integrations": Group(("tests/integrations",), PARALLEL),
    "data": Group(("tests/data",), PARALLEL),
    "models": Group(("tests/models",), PARALLEL),
    "cli": Group(("tests/cli",), PARALLEL),
    "tuning": Group(("tests/tuning",), PARALLEL),
    "diagnose": Group(("tests/diagnose",), PARALLEL),
    "compare": Group(("tests/compare",), PARALLEL),
    "labels": Group(("tests/labels",), PARALLEL),
    "demo": Group(("tests/demo", "tests/benchmarks"), PARALLEL),
    "report": Group(("tests/report",), PARALLEL),
    "docs": Group(
        ("tests/test_docs.py", "tests/test_packaging.py", "tests/test_readme.py"),
        ("-n", "2", "--dist", "loadfile"),
    ),
    "doctests": Group(("src/tether",), ("--doctest-modules", "-p", "no:cacheprovider")),
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
    return Group(("tests",), (*PARALLEL, *(f"--ignore={path}" for path in taken)))


def run(command: list[str]) -> tuple[int, float]:
    """Run a command with one thread a process; its exit code and seconds."""
    # Two workers with a thread pool each are slower than two single threads on two cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    start = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **threads}).returncode
    return code, time.perf_counter() - start


def run_lint() -> Result:
    """Ruff's rules, ruff's format, mypy in strict mode."""
    paths = [path for path in LINTED if (ROOT / path).is_dir()]
    commands = (
        [str(BIN / "ruff"), "check", *paths],
        [str(BIN / "ruff"), "format", "--check", *paths],
        [str(BIN / "mypy")],
    )
    outcomes = [run(command) for command in commands]
    failed = sum(code != 0 for code, _ in outcomes)
    return Result(sum(seconds for _, seconds in outcomes), failed == 0, failed=failed)


def run_group(group: Group) -> Result:
    """One call of pytest; the counts come from its own report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *group.options, *group.paths]
        code, seconds = run([*command, f"--junit-xml={report}"])
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


def main() -> int:
    """Run the groups that were asked for, or all."""
    groups = {"unit": unit_group(), **GROUPS}
    steps: dict[str, Callable[[], Result]] = {"lint": run_lint}
    for name, group in groups.items():
        steps[name] = lambda group=group: run_group(group)  # type: ignore[misc]

    parser = argparse.ArgumentParser(description="Lint, types and tests, by group.")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(steps)}")
    asked = parser.parse_args().groups or list(steps)
    unknown = [name for name in asked if name not in steps]
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}; known: {', '.join(steps)}")

    results = {}
    for name in asked:
        print(f"\n== {name}", flush=True)
        results[name] = steps[name]()

    print("\ngroup         seconds  passed  failed  skipped")
    for name, result in results.items():
        print(
            f"{name:<12}{result.seconds:>9.1f}{result.passed:>8}{result.failed:>8}"
            f"{result.skipped:>9}{'' if result.ok else '  FAILED'}"
        )
    passed, failed, skipped, seconds = (
        sum(getattr(result, field) for result in results.values())
        for field in ("passed", "failed", "skipped", "seconds")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
