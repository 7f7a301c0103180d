"""Several machines on one study: a real PostgreSQL server, started here."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from tests.compare.toys import rows, study, table
from tether.catalogue import list_methods
from tether.compare.session import run_study
from tether.compare.storage import Storage
from tether.errors import ConfigError

pytestmark = pytest.mark.usefixtures("warm")

pytest.importorskip("psycopg", reason="psycopg is not installed")
FOUND = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
USER = "postgres"


def as_user(*words: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", USER, "--", *words] if os.geteuid() == 0 else list(words)


@pytest.fixture(scope="module")
def server():
    """URL of a server that lives as long as these tests."""
    where = FOUND[-1] if FOUND else ""
    if not where and shutil.which("initdb") is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        base, log = f"{folder}/base", f"{folder}/log"
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

        def run(*words: str) -> None:
            done = subprocess.run(
                as_user(*words), cwd=folder, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout

        run(os.path.join(where, "initdb"), "-D", base, "-A", "trust", "-U", USER, "-E", "UTF8")
        control = os.path.join(where, "pg_ctl")
        subprocess.run(
            as_user(control, "-D", base, "-l", log, "-o", options, "-w", "start"), cwd=folder,
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run(control, "-D", base, "-m", "immediate", "stop")


@pytest.mark.long
def test_two_that_work_on_one_study_share_its_runs(server, tmp_path):
    data = rows(tmp_path / "rows.npz")
    asked = study(data, trials=5, name="shared")
    told: dict[str, list[str]] = {"a": [], "b": []}
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            run_study(asked, tmp_path / name, workers=1, storage=server, tell=told[name].append)
        except BaseException as error:
            errors.append(error)

    list_methods()  # methods are imported once, which two threads must not do at the same time
    other = threading.Thread(target=work, args=("b",))
    other.start()
    work("a")
    other.join()
    assert not errors, errors
    done = [line.split(" ", 1)[1] for lines in told.values() for line in lines]
    assert len(done) == len(set(done)) == 2 * (5 + 2)  # each run once, by one of them
    assert all(told.values())
    first = (tmp_path / "a" / "results.jsonl").read_text(encoding="utf-8")
    assert first == (tmp_path / "b" / "results.jsonl").read_text(encoding="utf-8")
    straight = run_study(asked, tmp_path / "here", workers=0)
    again = run_study(asked, tmp_path / "c", workers=0, storage=server)
    assert table(again.rows) == table(straight.rows)


def test_claims_of_the_dead_are_free_and_those_of_the_living_are_not(server, monkeypatch):
    one, other = Storage(server, "claims"), Storage(server, "claims")
    try:
        one.keep("text", {"a": 1})
        assert (other.config(), other.meta()) == ("text", {"a": 1})
        assert one.claim("run", {"lr": 0.1}) and not other.claim("run", {"lr": 0.2})
        other.free_dead()
        assert not other.claim("run", {"lr": 0.2})
        assert other.others() == 1
        monkeypatch.setattr("tether.compare.storage.SILENCE", -1.0)  # all are silent too long
        other.free_dead()
        assert other.claim("run", {"lr": 0.2})
        assert other.runs()["run"].settings == {"lr": 0.1}  # as it was claimed first
        other.finish("run", {"status": "done", "x": float("nan")})
        assert other.runs()["run"].row == {"status": "done", "x": None}
        assert not other.claim("run", {})
    finally:
        one.close()
        other.close()


def test_a_server_that_is_not_there(server, tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    data = rows(tmp_path / "rows.npz")
    url = f"postgresql://me:secret@127.0.0.1:{port}/x"
    with pytest.raises(ConfigError, match="cannot be reached") as caught:
        run_study(study(data), tmp_path / "study", workers=0, storage=url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not Path(tmp_path / "study" / "study.yaml").exists()
