"""Stages one after another: what each starts from, and going on after kills in and between them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.kill import attempt, wait
from tests.tuning.test_kill import same_tensors
from tests.tuning.toys import image_folder, settings
from tether import catalogue
from tether.data import load_data
from tether.errors import ConfigError
from tether.files import read_rows
from tether.method import Method
from tether.models import load_exported, load_model
from tether.tuning import callbacks, job
from tether.tuning.config import load_config
from tether.tuning.result import Result


@pytest.fixture
def starts():
    """w0 of every stage that has the method ``keeps_w0``."""

    @catalogue.register("keeps_w0", kind="weights", needs=("reference",))
    class KeepsW0(Method):
        """Keeps what it is told the pretrained weights are, and what the model holds."""

        found: ClassVar = []

        def edit_gradients(self):
            if not self.__dict__.get("kept"):
                self.kept = True
                refs = self.ctx.weights()
                w0 = {ref.name: self.ctx.reference[ref.name].clone() for ref in refs}
                now = {ref.name: ref.param.detach().clone() for ref in refs}
                self.found.append((w0, now))

    yield KeepsW0.found
    del catalogue._METHODS["keeps_w0"]


def agree(found, expected, names=None):
    for name in names or found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, msg=name)


def of_head(names):
    return {name for name in names if name.startswith(("head.", "fc."))}


# -- what a stage starts from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    ["best", *(pytest.param(name, marks=pytest.mark.long) for name in ("last", "pretrained"))],
)
def test_where_a_stage_starts(tmp_path, starts, start):
    stages = [
        {"epochs": 8, "methods": ["keeps_w0"], "lr_scheduler": "constant"},
        {"epochs": 2, "methods": ["l2_sp", "keeps_w0"], "start_from": start, "lr": 1e-3},
    ]
    run = tmp_path / "run"
    given = settings("demo:digits", run, stages=stages, eval_metric="nll")
    result = job.tune(given)
    (first, at_first), (second, at_second) = starts
    agree(first, at_first)
    agree(second, at_second)  # w0 is what the stage starts from
    best = load_file(run / "checkpoints/stage-1/best/model.safetensors")
    last = load_file(run / "checkpoints/stage-1/last/model.safetensors")
    assert not torch.equal(*(one[next(iter(first))] for one in (best, last)))
    agree(second, {"best": best, "last": last, "pretrained": first}[start])

    rows = read_rows(run / "metrics.jsonl")
    assert [row["stage"] for row in rows] == [1] * 8 + [2] * 2
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    each = rows[0]["step"]
    assert [row["step"] for row in rows] == [each * epoch for epoch in range(1, 11)]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    (done,) = json.loads((run / "progress.json").read_text())["stages"]
    assert (done["epochs"], done["steps"]) == (8, each * 8)
    assert (result.epochs, result.steps) == (10, each * 10)
    assert result.best_epoch in (9, 10)  # of the last stage
    assert len(result.methods) == 2 and "L2SP" in result.methods[0]
    assert result.history == rows and any("l2_sp.distance" in row for row in rows[8:])


@pytest.mark.parametrize("reset", [["head"], []])
def test_a_head_is_drawn_anew_where_asked_and_where_the_classes_are_others(
    images, tmp_path, starts, reset
):
    if not reset:  # as many classes under other names
        other = image_folder(tmp_path / "other", per_class=6, pixels=32)
        for name in ("red", "green", "blue"):
            (other / name).rename(other / f"dark-{name}")
    second = {"reset": reset} if reset else {"data": str(other)}
    stages = [{"epochs": 1}, {"epochs": 1, "methods": ["keeps_w0"], **second}]
    run = tmp_path / "run"
    given = settings(images, run, stages=stages, export="last")
    job.tune(given)
    ((_, start),) = starts
    before = load_file(run / "checkpoints/stage-1/last/model.safetensors")
    config = load_config(given)
    fresh = load_model(config, load_data(config)).model.state_dict()
    head = of_head(start)
    assert head and head < start.keys()
    agree(start, fresh, head)
    agree(start, before, start.keys() - head)
    assert not torch.equal(before["head.weight"], fresh["head.weight"])
    names = load_exported(run / "model").class_names
    assert names[0] == ("blue" if reset else "dark-blue")
    rows = (run / "predictions-validation.csv").read_text().splitlines()
    assert names[0] in rows[0]


def test_other_data_with_fewer_classes(images, tmp_path):
    two = image_folder(tmp_path / "two", per_class=6, pixels=32)
    for path in (two / "red").iterdir():
        path.unlink()
    (two / "red").rmdir()
    stages = [{"epochs": 1, "freeze": "backbone"}, {"epochs": 2, "data": str(two), "batch_size": 4}]
    result = job.tune(settings(images, tmp_path / "run", stages=stages, methods=["elr"]))
    assert load_exported(tmp_path / "run" / "model").class_names == ["blue", "green"]
    assert [row["stage"] for row in result.history] == [1, 2, 2]


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ({"data": "absent/"}, "absent"),
        ({"methods": ["elr:beta=2"]}, "beta"),
        ({"methods": ["l2sp"]}, "did you mean 'l2_sp'"),
        ({"eval_metric": "mae"}, "'mae' is not one of"),
        ({"loss": "mse"}, "mse does not take"),
        ({"optim_args": {"bogus": 1}}, "optim_args: adamw"),
        ({"freeze": "bogus"}, "fits no parameter"),
    ],
)
def test_a_slip_in_the_last_stage_is_told_before_the_first_trains(tmp_path, slip, message):
    stages = [{"epochs": 1}, {"epochs": 1, **slip}]
    with pytest.raises(ConfigError, match=message):
        job.tune(settings("demo:digits", tmp_path / "run", stages=stages))
    assert not (tmp_path / "run").exists()


# -- going on --------------------------------------------------------------------------------------


def kill_self(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def at(module, name, which, monkeypatch, after=False):
    """Let a forked child be killed when it calls a function with arguments that fit."""
    real = getattr(module, name)

    def deadly(*args, **options):
        if not which(*args):
            return real(*args, **options)
        if after:
            real(*args, **options)
        return kill_self()

    monkeypatch.setattr(module, name, deadly)


def in_second(row):
    return row["stage"] == 2


KILLS = {
    "in stage 1": (callbacks, "append_row", lambda path, row: row["epoch"] == 2, True),
    "before progress.json": (job, "write_json", lambda p, _: p.name == "progress.json", False),
    "after progress.json": (job, "write_json", lambda p, _: p.name == "progress.json", True),
    "in a checkpoint of stage 2": (
        callbacks, "seal", lambda folder, _: "stage-2/checkpoint-4" in folder.as_posix(), False
    ),
    "after a row of stage 2": (
        callbacks, "append_row", lambda path, row: in_second(row) and row["epoch"] == 8, True
    ),
    "before the model is exported": (job, "export", lambda *_: True, False),
    "after the model is exported": (job, "export", lambda *_: True, True),
}  # fmt: skip


def same_stages(one: Path, two: Path) -> None:
    same_tensors(*(run / "model/model.safetensors" for run in (one, two)))
    for stage in ("stage-1", "stage-2"):
        for name in ("model.safetensors", "methods.safetensors"):
            same_tensors(*(run / "checkpoints" / stage / "last" / name for run in (one, two)))
    same_tensors(*(run / "checkpoints/stage-1/end.safetensors" for run in (one, two)))

    def rows(run):
        return [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read_rows(run / "metrics.jsonl")
        ]

    assert rows(one) == rows(two)
    a, b = Result.read(one), Result.read(two)
    for name in ("last", "best", "best_epoch", "epochs", "steps", "stopped_early"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("predictions-validation.csv", "predictions-test.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_killed_in_and_between_stages(tmp_path, monkeypatch):
    stages = [
        {"epochs": 4, "methods": ["elr"], "eval_metric": "nll", "patience": 3},
        {"epochs": 5, "methods": ["l2_sp:weight=0.01", "adarand"], "start_from": "best",
         "reset": ["head"], "shots": 7},
    ]  # fmt: skip
    given = {"stages": stages, "batch_size": 20, "lr": 0.03, "grad_accum_steps": 2}
    whole = settings("demo:digits", tmp_path / "whole", **given)
    broken = settings("demo:digits", tmp_path / "broken", **given)
    assert wait(attempt(whole, resume=False)) == 0
    for name, (module, function, which, after) in KILLS.items():
        with monkeypatch.context() as patch:
            at(module, function, which, patch, after)
            assert wait(attempt(broken, resume=True)) == -signal.SIGKILL, name
        assert not (tmp_path / "broken" / "DONE").exists()
    assert wait(attempt(broken, resume=True)) == 0
    same_stages(tmp_path / "whole", tmp_path / "broken")
    progress = [
        json.loads((tmp_path / run / "progress.json").read_text())["stages"]
        for run in ("whole", "broken")
    ]
    for (one,), (two,) in [progress]:
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_run_of_stages_may_move(tmp_path):
    stages = [{"epochs": 1}, {"epochs": 2}]
    config = settings("demo:digits", tmp_path / "here", stages=stages)

    class Breaks(callbacks.TrainerCallback):
        def on_epoch_begin(self, args, state, control, **now):
            if "stage-2" in args.output_dir and state.epoch:
                raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        job.tune(config, callbacks=[Breaks()])
    (tmp_path / "here").rename(tmp_path / "there")
    result = job.tune({**config, "output_dir": str(tmp_path / "there")}, resume=True)
    assert result.epochs == 3 and not (tmp_path / "here").exists()
