"""The same comparison by the tasks of a Ray cluster."""

from __future__ import annotations

import socket

import pytest

from tests.compare.toys import rows, study, table
from tether.cli.compare import ray_words
from tether.compare.ray_tasks import RayTasks
from tether.compare.session import run_study
from tether.errors import ConfigError

pytestmark = pytest.mark.usefixtures("warm")

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.mark.long
def test_a_cluster_of_two_workers_comes_to_the_same_table(tmp_path):
    data = rows(tmp_path / "rows.npz")
    asked = study(data, trials=1, methods=["plain", "l2_sp"])
    ray.init(
        num_cpus=2, include_dashboard=False, address="local", logging_level="error",
        log_to_driver=False,
    )  # fmt: skip
    try:
        by_ray = run_study(asked, tmp_path / "ray", ray="local")
    finally:
        ray.shutdown()
    assert by_ray.failed == 0
    assert table(by_ray.rows) == table(run_study(asked, tmp_path / "here", workers=0).rows)


def test_an_address_that_is_none_or_silent_or_no_cluster(monkeypatch):
    for address in ("nonsense", "host:", "host:port"):
        with pytest.raises(ConfigError, match="write HOST:PORT"):
            RayTasks(address, None, 1, gpu=False)
    with pytest.raises(ConfigError, match="no cluster answers there within 10 seconds"):
        RayTasks(f"127.0.0.1:{free_port()}", None, 1, gpu=False)
    with socket.socket() as silent:  # takes calls and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr("tether.compare.ray_tasks.PATIENCE", 1.0)
        monkeypatch.setattr("tether.compare.ray_tasks.STARTING", 2.0)
        with pytest.raises(ConfigError, match="does not answer as a Ray cluster"):
            RayTasks(f"127.0.0.1:{silent.getsockname()[1]}", None, 1, gpu=False)
    assert not ray.is_initialized()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--ray"], ["--ray", "local"]),
        (["--ray", "--json"], ["--ray", "local", "--json"]),
        (["--ray", "study.yaml"], ["--ray", "local", "study.yaml"]),
        (["--ray", "auto", "x"], ["--ray", "auto", "x"]),
        (["--ray", "ray://host:10001"], ["--ray", "ray://host:10001"]),
        (["--ray=host:6379"], ["--ray=host:6379"]),
    ],
)
def test_the_address_may_be_left_out(words, meant):
    assert ray_words(words) == meant
