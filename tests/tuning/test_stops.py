"""Signals and kills at chosen updates: in an epoch, at its end, and at the end of all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from transformers import TrainerCallback

from tests.tuning.kill import attempt, wait
from tests.tuning.test_kill import same_runs
from tests.tuning.toys import settings
from tether.errors import Interrupted
from tether.files import read_rows
from tether.tuning import callbacks
from tether.tuning.checkpoints import checkpoints, newest, read_manifest
from tether.tuning.job import tune

#: Four epochs of ten updates; a save falls within epochs and on the end of the second.
GIVEN = {
    "methods": ["elr", "adarand"], "epochs": 4, "batch_size": 40, "eval_metric": "nll",
    "patience": 3, "save_total_limit": 4,
}  # fmt: skip
STEPS = {"epoch": 0, "steps": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Unbroken runs, one a way of saving."""
    folder = tmp_path_factory.mktemp("whole")
    for name, steps in STEPS.items():
        tune(settings("demo:digits", folder / name, save_steps=steps, **GIVEN))
    return folder


class Signals(TrainerCallback):
    """Sends SIGTERM so that it is seen at the end of an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_pre_optimizer_step(self, args, state, control, **now):
        if state.global_step + 1 == self.update:
            os.kill(os.getpid(), signal.SIGTERM)


def rows(run: Path) -> list[int]:
    return [row["step"] for row in read_rows(run / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("saves", "update"),
    [
        ("epoch", 20),
        ("epoch", 40),
        ("steps", 39),
        *(pytest.param(*at, marks=pytest.mark.long) for at in (("epoch", 3), ("steps", 12))),
        pytest.param("steps", 20, marks=pytest.mark.long),
    ],
)
def test_a_signal_at_an_update(tmp_path, whole, saves, update):
    run = tmp_path / "run"
    config = settings("demo:digits", run, save_steps=STEPS[saves], **GIVEN)
    if update == 40:  # all is trained: what is left is done in a moment
        assert tune(config, callbacks=[Signals(update)]).steps == 40
    else:
        with pytest.raises(Interrupted) as stop:
            tune(config, callbacks=[Signals(update)])
        assert stop.value.signum == signal.SIGTERM
        found = newest(run / "checkpoints")
        assert found is not None and found.name == f"checkpoint-{update}"
        assert rows(run) == [10 * epoch for epoch in range(1, update // 10 + 1)]
        tune(config, resume=True)
    assert rows(run) == [10, 20, 30, 40]
    same_runs(whole / saves, run)


@pytest.mark.parametrize(
    ("saves", "name"), [("epoch", "seal"), ("steps", "append_row"), ("steps", "save_weights")]
)
def test_a_kill_at_the_end_of_an_epoch(tmp_path, whole, monkeypatch, saves, name):
    """Just before the second epoch's end is sealed, written down, or kept as the best."""
    run, real, calls = tmp_path / "run", getattr(callbacks, name), []

    def deadly(*args, **options):
        if len(rows(run)) == 2 - (name == "append_row") and (
            name != "seal" or args[0].name == "checkpoint-20"
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(name)
        return real(*args, **options)

    config = settings("demo:digits", run, save_steps=STEPS[saves], **GIVEN)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, name, deadly)
        assert wait(attempt(config, resume=False)) == -signal.SIGKILL
    assert not [f for f in checkpoints(run / "checkpoints") if f.name == "checkpoint-20"
                and read_manifest(f)]  # fmt: skip
    assert wait(attempt(config, resume=True)) == 0
    assert rows(run) == [10, 20, 30, 40]
    same_runs(whole / saves, run)
