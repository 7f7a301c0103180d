"""``tether tune`` on two processes is the same run on one with batches of twice the size."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.tuning.test_kill import same_runs
from tests.tuning.toys import image_folder, settings
from tests.two_ranks import two_ranks
from tether.errors import ConfigError, Interrupted
from tether.files import read_rows
from tether.tuning.job import tune
from tether.tuning.result import Result

#: What trains; the batch is that of one process, halved on each of two.
STILL = {"augment": "none", "model_args": {"pretrained": False}, "optim": "sgd", "lr": 0.02}
RUNS = {
    "plain": {"data": "images", **STILL},
    "methods": {"data": "images", "methods": ["l2_sp:weight=0.1", "elr"], **STILL},
    "accumulated": {
        "data": "images", "methods": ["l2_sp:weight=0.1", "elr"], "grad_accum_steps": 2,
        "batch_size": 4, "clip_grad": 1.0, **STILL,
    },
    "adam": {"data": "demo:digits", "methods": ["elr"], "batch_size": 20, "patience": 1,
             "epochs": 4},
    "stages": {"data": "demo:digits", "batch_size": 20, "optim": "sgd", "export": "last",
               "stages": [{"epochs": 1}, {"methods": ["l2_sp"], "start_from": "best"}]},
}  # fmt: skip
if not os.environ.get("TETHER_LONG"):
    del RUNS["accumulated"], RUNS["plain"]
DRAWS = {
    "methods": ["adarand", "elr"], "batch_size": 10, "epochs": 3, "save_steps": 7,
    "lr_scheduler": "linear",
}  # fmt: skip


def of(out: Path, name: str, where: str, ranks: int) -> dict[str, object]:
    given = {"batch_size": 8, **RUNS[name]}
    data = given.pop("data")
    given["batch_size"] //= ranks
    return settings(out / data if data == "images" else data, out / where / name, **given)


class Signalled(TrainerCallback):
    """Sends SIGTERM to the process it is on."""

    def on_step_end(self, args, state, control, **now):
        if state.global_step == 25:
            os.kill(os.getpid(), signal.SIGTERM)


def both(rank, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    for name in RUNS:
        result = tune(of(out, name, "two", 2))
        (out / f"{name}-{rank}.json").write_text(json.dumps(result.as_json()))
    whole = settings("demo:digits", out / "two" / "whole", **DRAWS)
    broken = settings("demo:digits", out / "two" / "broken", **DRAWS)
    tune(whole)
    with pytest.raises(Interrupted) as stop:  # told to one of them, both stop
        tune(broken, callbacks=[Signalled()] if rank else [])
    assert stop.value.signum == signal.SIGTERM
    if rank == 0:
        shutil.copytree(out / "two" / "broken", out / "copy", symlinks=True)
    dist.barrier()
    tune(broken, resume=True)
    assert tune(broken, resume=True).epochs == 3
    with pytest.raises(ConfigError, match="option fsdp"):
        tune(settings("demo:digits", out / "sharded", fsdp="full_shard"))


@pytest.mark.distributed
def test_two_ranks_equal_one_process(tmp_path):
    image_folder(tmp_path / "images", per_class=10, pixels=32)
    two_ranks(both, tmp_path)
    for name in RUNS:
        one = tune(of(tmp_path, name, "one", 1))
        two = Result.read(tmp_path / "two" / name)
        for rank in (0, 1):  # each process is told the same
            told = json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            for key in ("last", "best", "best_epoch", "steps", "stopped_early", "history"):
                assert told[key] == getattr(two, key), (name, key)
        assert (one.steps, one.epochs, one.stopped_early) == (
            two.steps, two.epochs, two.stopped_early
        ), name  # fmt: skip
        runs = [tmp_path / where / name for where in ("one", "two")]
        a, b = (load_file(run / "model" / "model.safetensors") for run in runs)
        exact = RUNS[name].get("optim") == "sgd"
        for key in a:
            close = {"rtol": 0, "atol": 1e-6} if exact else {"rtol": 1e-2, "atol": 2e-3}
            torch.testing.assert_close(a[key], b[key], **close, msg=f"{name} {key}")
        for split, scores in one.last.items():
            for metric, value in scores.items():
                near = 1e-5 if exact else 1e-2
                assert two.last[split][metric] == pytest.approx(value, abs=near), (name, metric)
        left = [{p.relative_to(run).as_posix() for p in run.rglob("*")} for run in runs]
        more = {path.rpartition("/")[2] for path in left[1] - left[0]}
        # of each rank: its random numbers, its part of the methods' state
        assert more <= {"rng_state_0.pth", "rng_state_1.pth", "methods.safetensors.rank1"}
        assert {path.rpartition("/")[2] for path in left[0] - left[1]} <= {"rng_state.pth"}
        rows = [read_rows(run / "metrics.jsonl") for run in runs]
        assert len(rows[0]) == len(rows[1]) and rows[0][0].keys() == rows[1][0].keys()
        if exact:
            for key, value in rows[0][-1].items():
                if key != "seconds":
                    assert rows[1][-1][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
        environment = json.loads((runs[1] / "environment.json").read_text())
        assert environment["processes"] == 2
    same_runs(tmp_path / "two" / "whole", tmp_path / "two" / "broken")
    assert not (tmp_path / "sharded").exists()
    broken = settings("demo:digits", tmp_path / "copy", **DRAWS)
    with pytest.raises(ConfigError, match="process"):
        tune(broken, resume=True)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                   "--main_process_port", "0"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "launcher", [pytest.param(name, marks=pytest.mark.long) for name in LAUNCHERS]
)
def test_the_command_under_a_launcher(tmp_path, launcher):
    words = ["--model", "demo:digits", "--data", "demo:digits", "--method", "elr", "--batch-size",
             "16", "--epochs", "2", "--output-dir", "run", "--device", "cpu"]  # fmt: skip

    def launch(*more):
        return subprocess.run(
            [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "tether", "tune", *words, *more],
            cwd=tmp_path, capture_output=True, text=True, timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    done = launch()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best epoch") == 2  # a line of the table, and a word of the last
    assert done.stderr.count("epoch 2/2") == 1
    result = Result.read(tmp_path / "run")
    assert result.steps == 2 * 13 and len(result.history) == 2
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["processes"] == 2
    if os.environ.get("TETHER_LONG"):
        again = launch()
        assert again.returncode != 0 and "is not empty" in again.stderr
