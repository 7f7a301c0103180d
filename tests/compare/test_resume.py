"""Comparisons that are killed at any moment, and then go on to the same table."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compare.toys import command, rows, study, table
from tether.compare.pool import Pool
from tether.compare.session import run_study
from tether.files import read_rows

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return rows(tmp_path_factory.mktemp("data") / "rows.npz")


def forked(asked: dict[str, Any], folder: Path, **how: Any) -> int:
    """A comparison in a forked child, which has all imports already."""
    torch.set_num_threads(1)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run_study(asked, folder, workers=0, **how)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(folder: Path) -> dict[str, str]:
    """The rows that the storage holds, as they are."""
    if not (folder / "study.db").is_file():
        return {}
    with sqlite3.connect(folder / "study.db", timeout=30) as base:
        try:
            found = base.execute("select id, row from tether_runs where row is not null")
            return dict(found.fetchall())
        except sqlite3.OperationalError:  # killed before there were tables
            return {}


def until(what: Callable[[], Any], seconds: float = 250.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
    return found


def test_killed_at_random_moments_it_repeats_no_run_and_loses_none(data, tmp_path):
    asked = study(data, trials=3, methods=["plain", "l2_sp"])
    rng, seen, kills = random.Random(0), {}, 0
    folder = tmp_path / "killed"
    while True:
        child = forked(asked, folder)
        patience, began, code = rng.uniform(0.3, 1.5), time.monotonic(), None
        target = len(ended(folder)) + rng.randrange(1, 3)
        while len(ended(folder)) < target or time.monotonic() < began + patience:
            time.sleep(0.005)
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
        if code is not None:
            assert code == 0
            break
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        kills += 1
        now = ended(folder)
        assert seen.items() <= now.items()  # to the time that each took
        seen = now
    assert kills >= 3
    assert seen.items() <= ended(folder).items()
    straight = run_study(asked, tmp_path / "straight", workers=0)
    again = run_study(asked, folder, workers=0)
    assert table(again.rows) == table(straight.rows)
    assert not (folder / "runs").exists()


@pytest.mark.long
def test_a_long_run_goes_on_from_its_checkpoint(data, tmp_path):
    asked = study(data, trials=1, methods=["plain"], space={}, settings={"epochs": 30}, prune=False)
    folder = tmp_path / "study"
    child = forked(asked, folder, keep_runs=True)

    def far() -> list[Path]:
        found = list(folder.glob("runs/*/metrics.jsonl"))
        return [path for path in found if 5 < len(read_rows(path)) < 29]

    metrics = until(far)[0]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = read_rows(metrics)
    done = run_study(asked, folder, workers=0, keep_runs=True)
    after = read_rows(metrics)
    assert len(after) == 30 and len(done.rows) == 2  # nothing to tune: no trials
    kept = [one for one, other in zip(before, after, strict=False) if one == other]
    assert len(kept) >= len(before) - 3  # to the hundredth of a second
    straight = run_study(asked, tmp_path / "straight", workers=0)
    assert table(done.rows) == table(straight.rows)


@pytest.mark.long
def test_a_signal_saves_what_runs_and_the_same_command_goes_on(data, tmp_path):
    text = json.dumps(study(data, trials=1, settings={"epochs": 400}, space={}, methods=["plain"]))
    path, folder = tmp_path / "study.json", tmp_path / "out"
    path.write_text(text, encoding="utf-8")
    words = [str(path), "-o", str(folder), "--workers", "1"]
    process = command(*words)
    until(lambda: list(folder.glob("runs/*/checkpoints/checkpoint-*")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1] == (
        "tether compare: what was running is saved; the same command goes on"
    )
    assert ended(folder) == {}
    [run] = folder.glob("runs/*")
    assert (run / "checkpoints").is_dir() and not (run / "FAILED").exists()


@pytest.mark.long
def test_workers_end_with_the_comparison_and_a_killed_worker_fails_its_run(data, tmp_path):
    """The first worker is killed on each of its tries; the run has failed and the others go on."""
    asked = study(data, trials=1, settings={"epochs": 60}, space={}, methods=["plain"])
    folder = tmp_path / "study"
    told: list[str] = []
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set() and len(killed) < 2:
            for lock in folder.glob("runs/*/metrics.jsonl"):
                for pid in children("tether.compare.worker"):
                    if pid not in killed and holds(pid, lock.parent / ".lock") and len(killed) < 2:
                        killed.append(pid)
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = run_study(asked, folder, workers=1, tell=told.append)
    finally:
        stop.set()
        thread.join()
    assert len(killed) == 2
    failed = [row for row in found.rows if row["status"] == "failed"]
    assert found.failed == len(failed) == 1
    assert failed[0]["error"] == (
        "the worker was killed by SIGKILL: most often the machine was out of memory (2 times)"
    )
    assert any("it begins again" in line for line in told)
    assert [row["status"] for row in found.rows].count("done") == 1
    until(lambda: not children("tether.compare.worker"))


def test_workers_of_a_killed_comparison_end_at_once(data, tmp_path):
    pool = Pool(1, 1, tmp_path)
    pool.submit({"id": "x", "job": "nothing like it", "folder": "", "threads": 1, "row": {}})
    [outcome] = until(lambda: pool.wait(1.0))
    assert outcome.row["status"] == "failed" and "nothing like it" in outcome.row["error"]
    [worker] = pool._workers.values()
    assert worker.process.poll() is None
    worker.process.stdin.close()  # as the system does for a process that was killed
    assert worker.process.wait(20) == 0


def children(module: str) -> list[int]:
    """Our child processes that run a module."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            status = (path.parent / "status").read_text()
        except OSError:
            continue
        if module.encode() in words and f"PPid:\t{os.getpid()}\n" in status:
            found.append(int(path.parent.name))
    return found


def holds(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    try:
        return any(
            os.readlink(one) == str(path.absolute()) for one in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:
        return False
