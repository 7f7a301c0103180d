"""What cannot be done is one line on stderr and an exit code, and leaves nothing on the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.cli.test_command import tether
from tests.data.makers import image_folder as folder_of
from tests.data.makers import table
from tests.tuning.kill import attempt, is_over, wait
from tests.tuning.test_kill import same_runs
from tests.tuning.toys import settings
from tether.cli import main
from tether.files import read_rows
from tether.tuning.checkpoints import newest, read_manifest
from tether.tuning.job import tune

VIT = ["--model", "timm:test_vit", "--model-args", "pretrained=false", "--image-size", "32"]
DIGITS = ["--model", "demo:digits", "--data", "demo:digits"]
SHORT = ["--epochs", "1", "--device", "cpu", "--output-dir", "run"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TETHER_DEBUG", raising=False)
    return tmp_path


def refused(capsys, *words, code=2):
    """The one line that a command printed; nothing else is printed or written."""
    before = set(Path().rglob("*"))
    assert main(["tune", *words]) == code
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("tether tune: ") and said.count("\n") == 1, said
    assert set(Path().rglob("*")) == before
    return said


# -- data ------------------------------------------------------------------------------------------


def no_folder(here):
    (here / "pictures").mkdir()
    return "picturs/"


def empty_folder(here):
    (here / "empty").mkdir()
    return "empty"


def empty_classes(here):
    for name in ("a", "b"):
        (here / "none" / name).mkdir(parents=True)
    return "none"


def one_class(here):
    return str(folder_of(here / "one", {"only": 6}))


def one_label(here):
    return str(table(here / "one.csv", ["text", "label"], [(f"t{i}", "same") for i in range(9)]))


def no_label_column(here):
    rows = [(f"t{i}", "a", 1) for i in range(9)]
    return str(table(here / "columns.csv", ["text", "kind", "stars"], rows))


def not_utf8(here):
    (here / "latin.csv").write_bytes("text,label\ngood,a\ncafé,b\n".encode("latin-1"))
    return "latin.csv"


def cut_image(here):
    root = folder_of(here / "cut", {"a": 6, "b": 6})
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    return "cut"


@pytest.mark.parametrize(
    ("make", "messages"),
    [
        (no_folder, ["picturs/", "pictures"]),
        (empty_folder, ["empty"]),
        (empty_classes, ["none"]),
        (one_class, ["one class", "only"]),
        (one_label, ["one class", "same"]),
        (no_label_column, ["label", "text", "kind", "stars", "--label-column"]),
        (not_utf8, ["latin.csv", "line 3", "UTF-8"]),
        (cut_image, ["a/0.png", "--on-bad-sample skip"]),
    ],
)
def test_data(here, capsys, make, messages):
    said = refused(capsys, *VIT, "--data", make(here), *SHORT)
    for message in messages:
        assert message in said


def test_a_truncated_image_may_be_skipped(here):
    words = ["--data", cut_image(here), "--on-bad-sample", "skip", "--save-total-limit", "0"]
    assert main(["tune", *VIT, *words, *SHORT]) == 0
    assert "a/0.png" not in (here / "run" / "predictions-validation.csv").read_text()


# -- models, methods, options ----------------------------------------------------------------------


def other_weights(here):
    import torch

    save_file({"tower.0.weight": torch.zeros(3)}, here / "other.safetensors")
    return [*VIT, "--weights", "other.safetensors"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--model", "timm:test_vitt"], ["test_vitt", "test_vit"]),
        (["--model", "tim:test_vit"], ["unknown library 'tim'", "timm"]),
        (["--model", "./nowhere"], ["./nowhere", "does not exist"]),
        ([*VIT, "--weights", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (other_weights, ["other.safetensors", "tower.0.weight"]),
        ([*VIT, "--method", "l2sp"], ["'l2sp'", "did you mean 'l2_sp'"]),
        ([*VIT, "--method", "l2_sp:wieght=1"], ["'wieght'", "did you mean 'weight'"]),
        ([*VIT, "--method", "elr:beta=2"], ["beta", "2", "0"]),
        ([*VIT, "--method", "elr:beta=much"], ["beta must be a number", "'much'"]),
        ([*VIT, "--method", "distance_constraint"], ["needs the option 'radius'"]),
        ([*VIT, "--method", "elr", "--task", "single_label", "--loss", "mse"], ["mse does not"]),
        ([*VIT, "--learning-rat", "1"], ["--learning-rat", "--help"]),
        ([*VIT, "--set", "batchsize=3"], ["batchsize", "did you mean 'batch_size'"]),
        ([*VIT, "--lr", "-1"], ["lr", "-1"]),
        ([*VIT, "--epochs", "0"], ["epochs", "0"]),
        ([*VIT, "--augment", "colour-jitter"], ["augment", "colour"]),
        ([*VIT, "--optim-args", "momentum=0.5"], ["optim_args: adamw", "momentum"]),
        ([*VIT, "--freeze", "blcks.0"], ["blcks.0", "did you mean blocks.0"]),
        ([*VIT, "--eval-metric", "f1"], ["eval_metric", "macro_f1"]),
        ([*VIT, "--class-weights", "red=1"], ["class_weights", "red", "a, b"]),
        ([*VIT, "--noise", "symetric:0.2"], ["noise", "symmetric"]),
        ([*VIT, "--fsdp", "full_shard"], ["option fsdp", "accelerators"]),
        ([*VIT, "--precision", "fp16"], ["fp16 needs an accelerator", "bf16"]),
        ([*VIT, "--report-to", "papertrail"], ["report_to", "'papertrail'", "tensorboard"]),
        ([*VIT, "--resume", "--overwrite"], ["contradict"]),
    ],
    ids=lambda value: None if callable(value) else str(value[-1]),
)
def test_settings(here, capsys, words, messages):
    folder_of(here / "data", {"a": 4, "b": 4})
    words = words(here) if callable(words) else words
    said = refused(capsys, "--data", "data", *SHORT, *words)
    for message in messages:
        assert message in said, said


def test_methods_that_do_not_fit_together_or_with_the_loss(here, capsys, bert):
    rows = [(f"good film {i}", "ab"[i % 2]) for i in range(12)]
    words = ["--model", bert, "--data", str(table(here / "t.csv", ["text", "label"], rows))]
    said = refused(capsys, *words, *SHORT, "--loss", "model", "--method", "elr")
    assert "'elr'" in said and "model's own loss" in said
    said = refused(capsys, *DIGITS, *SHORT, "--method", "adarand", "--method", "randreg")
    assert "cannot be combined" in said and "'adarand'" in said


def test_a_hub_name_without_network(here):
    """A real process, whose hub is a closed port."""
    folder_of(here / "data", {"a": 4, "b": 4})
    words = ["--model", "nobody/no-such-model", "--data", "data", *SHORT]
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(here / "home")}
    done = tether("tune", *words, cwd=here, env=env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    last = done.stderr.splitlines()[-1]
    assert "nobody/no-such-model" in last and "local" in last and "Traceback" not in done.stderr
    assert not (here / "run").exists()


# -- the output folder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    tune(settings("demo:digits", run, epochs=1, methods=["elr"], save_total_limit=1))
    return run


def test_a_folder_that_is_not_empty(here, capsys, finished):
    shutil.copytree(finished, here / "run", symlinks=True)
    assert "--resume" in refused(capsys, *DIGITS, *SHORT)
    words = ["--method", "elr:beta=0.5", "--lr", "0.5", "--resume", "--output-dir", "run"]
    said = refused(capsys, *DIGITS, *words)
    assert "lr: 0.01 in the run, 0.5 now" in said and "elr:beta=0.5 now" in said
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("years of work")
    said = refused(capsys, *DIGITS, "--output-dir", "mine", "--overwrite")
    assert "holds no run" in said
    (here / "file").write_text("")
    assert "file of this name" in refused(capsys, *DIGITS, "--output-dir", "file")


def test_a_folder_that_another_run_writes_to(here, capsys):
    config = settings("demo:digits", here / "run", epochs=500)
    child = attempt(config, resume=False)
    try:
        while not read_rows(here / "run" / "metrics.jsonl"):
            assert is_over(child) is None
            time.sleep(0.01)
        os.kill(child, signal.SIGSTOP)  # alive, and the folder stays as it is
        for how in ("--resume", "--overwrite"):
            said = refused(capsys, *DIGITS, "--output-dir", "run", how)
            assert "run: another run is writing to it" in said
    finally:
        os.kill(child, signal.SIGKILL)
        wait(child)
    config["epochs"] = 1  # the lock went with its owner
    assert tune(config, overwrite=True).epochs == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(here, capsys):
    (here / "locked").mkdir(mode=0o500)
    said = refused(capsys, *DIGITS, "--output-dir", "locked/run")
    assert "locked/run" in said and "ermission" in said


# -- what fails on the way -------------------------------------------------------------------------


def test_a_loss_that_is_not_finite(here, capsys):
    words = ["--epochs", "2", "--optim", "sgd", "--lr", "1e30", "--output-dir", "run"]
    assert main(["tune", *DIGITS, *words]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "infinite or not a number" in said and "lower the learning rate" in said
    assert (here / "run" / "FAILED").read_text().strip()
    assert "broken off" in (here / "run" / "run.log").read_text()
    assert not (here / "run" / "DONE").exists()


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Settings, and a run of them for which there was room."""
    given = {"epochs": 4, "methods": ["elr", "l2_sp:weight=0.01"]}
    run = tmp_path_factory.mktemp("whole") / "run"
    tune(settings(images, run, **given))
    return given, run


@pytest.fixture
def disk(tmp_path):
    """A file system whose size can be set."""
    place, mount = tmp_path / "disk", shutil.which("mount") or "mount"
    place.mkdir()

    def resize(size, how="remount"):
        words = [mount, "-t", "tmpfs", "-o", f"{how},size={size}", "tmpfs", str(place)]
        return subprocess.run(words, capture_output=True).returncode

    if resize("1m", "rw"):
        pytest.skip("mounting a small file system needs root")
    yield place, resize
    subprocess.run(["umount", str(place)], check=True)


# where the first bytes lack: the first weights, optimiser, and methods; the second checkpoint
@pytest.mark.parametrize(
    "size", ["1500k", *(pytest.param(s, marks=pytest.mark.long) for s in ("3m", "5m")), "8m"]
)
def test_a_full_disk(images, whole, disk, capsys, size):
    given, unbroken = whole
    place, resize = disk
    resize(size)
    config = settings(images, place / "run", **given)
    (file := place.parent / "run.json").write_text(json.dumps(config))
    assert main(["tune", str(file)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tether tune: no room on the disk") and "--resume" in last
    assert str(place) in last and "MiB free" in last
    assert not (place / "run" / "DONE").exists()
    root = place / "run" / "checkpoints"
    for folder in root.glob("checkpoint-*"):  # those that are whole, or none
        names = {path.name for path in folder.iterdir()}
        parts = {"model.safetensors", "optimizer.pt", "methods.safetensors", "rng_state.pth"}
        assert read_manifest(folder) is None or names > parts
    resize("100m")
    tune(config, resume=True)
    same_runs(unbroken, place / "run")
    assert not (place / "run" / "FAILED").exists()


def limited(config, size):
    """Exit code of a run in a child that may not write files of more than so many bytes."""
    import resource

    sys.stdout.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return wait(attempt(config, resume=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_may_not_grow(images, tmp_path, whole):
    given, unbroken = whole
    config = settings(images, tmp_path / "run", **given)
    assert limited(config, 50_000) == 1
    root = tmp_path / "run" / "checkpoints"
    assert not root.is_dir() or newest(root) is None
    assert "File too large" in (tmp_path / "run" / "FAILED").read_text()
    tune(config, resume=True)
    same_runs(unbroken, tmp_path / "run")
