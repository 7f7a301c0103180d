"""Who may write to a folder, what is removed, and what a run that goes on must agree with."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest

from tests.tuning.toys import image_folder, settings
from tether.errors import ConfigError
from tether.files import read_rows
from tether.tuning.assembly import read_class_weights
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.result import Result
from tether.tuning.run_folder import RunFolder, folder_of, in_use

DEMO = "demo:digits-few"


def folder(path, config, **how):
    return RunFolder(path, load_config(config), **({"resume": False, "overwrite": False} | how))


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1")
    (tmp_path / "thesis.tex").write_text("years of work")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="not empty"):
            folder(tmp_path, settings(DEMO, tmp_path), **how).check()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_removes_only_what_a_run_wrote(tmp_path):
    run = tmp_path / "run"
    tune(settings(DEMO, run, epochs=1))
    (run / "notes.txt").write_text("mine")
    again = folder(run, settings(DEMO, run, epochs=1), overwrite=True)
    again.open()
    again.close()
    assert sorted(p.name for p in run.iterdir()) == [".lock", "config.yaml", "notes.txt"]


def test_one_run_at_a_time(tmp_path):
    config = settings(DEMO, tmp_path / "run")
    first = folder(tmp_path / "run", config)
    first.open()
    with pytest.raises(ConfigError, match="another run is writing"):
        folder(tmp_path / "run", config, resume=True).check()
    first.close()
    folder(tmp_path / "run", config, resume=True).check()


def test_a_worker_of_a_killed_run_does_not_keep_the_folder(tmp_path):
    config = settings(DEMO, tmp_path / "run")
    reading, writing = os.pipe()
    owner = os.fork()
    if not owner:
        mine = folder(tmp_path / "run", config)
        mine.open()
        if not os.fork():
            os.write(writing, str(os.getpid()).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reading, 20))
    try:
        assert in_use(tmp_path / "run")
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        os.kill(worker, 0)  # it is still there
        assert not in_use(tmp_path / "run")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_name_of_a_folder_holds_no_path(tmp_path):
    config = load_config({"model": "timm:a/b", "data": "../x y", "methods": ["elr"]})
    assert str(folder_of(config)) == "runs/b-x_y-elr"


def test_changed_data_and_other_processes_are_not_resumed(tmp_path, monkeypatch):
    data = image_folder(tmp_path / "data", per_class=8)
    config = settings(data, tmp_path / "run", epochs=1)
    tune(config)
    (tmp_path / "run" / "DONE").unlink()
    monkeypatch.setattr("tether.tuning.stage.Stage._processes", lambda self: 2)
    with pytest.raises(ConfigError, match="trained by 1 processes, now there are 2"):
        tune(config, resume=True)
    monkeypatch.undo()
    (data / "red" / "0.png").write_bytes((data / "blue" / "0.png").read_bytes())
    with pytest.raises(ConfigError, match="the data have changed in"):
        tune(config, resume=True)


def test_a_run_of_warm_up_alone_still_learns(tmp_path):
    config = settings("demo:digits", tmp_path / "run", warmup_ratio=1.0, epochs=3)
    result = tune(config)
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert 0.3 * config["lr"] < rates[0] < rates[-1] <= config["lr"]
    assert result.last["validation"]["accuracy"] > 0.3


def test_a_rate_of_zero_suits_every_schedule(tmp_path):
    config = settings(DEMO, tmp_path / "run", lr=0.0, lr_scheduler="polynomial", epochs=1)
    assert tune(config).steps > 0


def test_a_score_that_is_no_number_survives_the_file(tmp_path):
    scores = {"test": {"r2": math.nan}}
    result = Result(str(tmp_path), "r2", scores, scores, 0, 1, 1, 0.1, False)
    folder(tmp_path / "run", settings(DEMO, tmp_path)).mark_done(result.as_json())
    assert "nan" in Result.read(tmp_path / "run").summary()


def test_class_weights_by_name():
    from tether.data.table import DataSource

    source = DataSource("x", "text", "single_label", ["a,b", "c"], {})
    assert read_class_weights("c=2,'a,b'=1", source) == [1.0, 2.0]
    for text, words in {
        "c=inf,'a,b'=1": "number from 0 on",
        "c=1": "no weight for a,b",
        "d=1": "no class 'd'",
        "'a=1": "is missing",
    }.items():
        with pytest.raises(ConfigError, match=words):
            read_class_weights(text, source)
