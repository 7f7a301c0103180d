import io
import math
import sys

import numpy as np
import pytest
import torch

from tether.demo.experiments import EXPERIMENTS, FEW_SHOT, NOISY, PLAIN
from tether.demo.pool import run_all
from tether.demo.progress import Progress
from tether.demo.run import Run, fine_tune
from tether.demo.summary import Results, text_table
from tether.demo.task import few_shot_task, noisy_task


def rows(dataset):
    return {tuple(row) for row in dataset.tensors[0].tolist()}


def test_a_task_follows_from_its_seed_alone():
    state = torch.get_rng_state()
    noisy_task.cache_clear()
    first = noisy_task(11)
    assert torch.equal(torch.get_rng_state(), state)
    noisy_task.cache_clear()
    torch.rand(3)
    again, other = noisy_task(11), noisy_task(12)
    assert torch.equal(first.noisy.labels, again.noisy.labels)
    for own, same in zip(first.pretrained.parameters(), again.pretrained.parameters(), strict=True):
        assert torch.equal(own, same)
    assert not torch.equal(first.train.tensors[0], other.train.tensors[0])


def test_tasks_are_what_they_say():
    noisy, few = noisy_task(11), few_shot_task(11)
    assert len(noisy.train) == 400 and len(noisy.test) == 497
    assert 0.3 < noisy.noisy.rate < 0.4
    assert torch.equal(noisy.train.tensors[1], noisy.noisy.labels)
    assert few.noisy.rate == 0
    assert few.train.tensors[1].bincount().tolist() == [10] * 10
    for task in (noisy, few):
        assert not rows(task.train) & rows(task.test)
        assert float(task.pretrained.head.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


def test_a_run_does_not_touch_its_task():
    task = few_shot_task(11)
    before = [parameter.clone() for parameter in task.pretrained.parameters()]
    run = fine_tune(FEW_SHOT, "AdaRand", seed=11, epochs=2)
    assert len(run.curves["test_accuracy"]) == 3
    assert run.curves["test_accuracy"][-1] > run.curves["test_accuracy"][0]
    for own, kept in zip(task.pretrained.parameters(), before, strict=True):
        assert torch.equal(own, kept)


@pytest.mark.long
def test_workers_change_nothing():
    jobs = [(NOISY.name, "RegSL", 11), (FEW_SHOT.name, "AdaRand", 11)]
    alone, pooled = run_all(jobs, epochs=2), run_all(jobs, epochs=2, workers=2)
    assert [run.method for run in pooled] == ["RegSL", "AdaRand"]
    assert alone[0].curves == pooled[0].curves
    assert alone[1].curves["norm"] == pooled[1].curves["norm"]  # others are NaN without noise


def fake_run(method, seed, accuracy, corrections=None):
    points = len(accuracy)
    curves = {name: [1.0] * points for name in ("memorized", "norm", "entropy")}
    curves |= {"test_accuracy": accuracy, "epoch": list(range(points))}
    labels = {"true": np.array([0, 1, 2, 3]), "given": np.array([0, 1, 2, 0])}
    return Run("noisy_labels", method, seed, 1.0, curves, {}, {}, labels, corrections)


@pytest.fixture
def results():
    runs = [
        fake_run(method, seed, [0.1, 0.8 + seed / 100 + bonus, 0.5 + seed / 100 + bonus])
        for bonus, method in enumerate(NOISY.methods)
        for bonus in [bonus / 20]
        for seed in (1, 0)
    ]
    return Results(NOISY, runs)


def test_summary_pairs_seeds(results):
    assert results.seeds == [0, 1]
    assert results.epochs == 2
    assert results.values(PLAIN, "accuracy_last") == [0.5, 0.51]
    assert results.mean(PLAIN, "accuracy_best") == pytest.approx(0.805)
    assert results.spread(PLAIN, "accuracy_last") == pytest.approx(0.01 / math.sqrt(2))
    assert results.gains("RegSL") == pytest.approx([0.2, 0.2])
    assert results.wrong_share == 0.25


def test_json_has_no_nan(results):
    numbers = results.as_json()["methods"][PLAIN]
    assert numbers["correction_precision"] == {"mean": None, "sd": None, "values": [None, None]}
    assert numbers["options"] == ""


def test_text_table_leaves_out_what_nobody_has(results):
    lines = text_table(results).splitlines()
    assert lines[0] == "Wrong labels: 4 training labels, 25% of them wrong"
    assert "corr." not in lines[1]
    assert len(lines) == 2 + len(NOISY.methods)
    assert lines[2].startswith("plain") and "50.5% ± 0.7" in lines[2]


def test_every_number_is_stated(results):
    assert results.options("ELR") == "EarlyLearningRegularization(weight=3.0, beta=0.7, eps=0.0001)"
    assert "threshold=0.9" in results.options("RegSL")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("ci", "live"), [("", True), ("1", False)])
def test_progress_is_live_on_a_terminal_only(ci, live, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(2) as progress:
        progress.advance(fake_run(PLAIN, 0, [0.1, 0.5]))
    text = screen.getvalue()
    assert "noisy labels, plain, seed 0: 50.0%" in text
    assert ("\x1b[2K" in text) == live
    assert not any(f"\x1b[{color}m" in text for color in (31, 32, 33, 34, 35, 36))
    assert (text == "[1/2] noisy labels, plain, seed 0: 50.0%\n") != live


def test_names_are_registered_once():
    assert set(EXPERIMENTS) == {"noisy_labels", "few_labels"}
    for experiment in EXPERIMENTS.values():
        assert next(iter(experiment.methods)) == PLAIN
        assert experiment.make(PLAIN) == []
