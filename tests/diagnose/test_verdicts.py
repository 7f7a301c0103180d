"""What is said of runs that go wrong, and is not said of those that do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import tether.diagnose
from tests.diagnose.runs import run
from tether.catalogue import list_methods
from tether.diagnose import examine, run_subject
from tether.diagnose.course import judge_course
from tether.diagnose.features import judge_features
from tether.diagnose.scores import judge_scores
from tether.diagnose.steps import NOTE, PROBLEM, Found


def verdicts(name, weights="best", change=None, only=()):
    subject = run_subject(run(name), weights=weights)
    if change is not None:
        with torch.no_grad():
            change(subject)
    found = examine(subject, only=only)
    assert {verdict.method for verdict in found.verdicts} <= {"", *list_methods()}
    failed = {step: o.reason for step, o in found.outcomes.items() if o.status == "failed"}
    assert not failed
    return {verdict.step: verdict for verdict in found.verdicts}, found


def test_wrong_labels_learnt_by_heart():
    said, found = verdicts("noisy", "last")
    worst = said["memorisation"]
    assert worst.kind == PROBLEM and worst.method == "elr" and "regsl" in worst.remedy
    share = found.outcomes["memorisation"].found.values["memorised"]
    assert share > 0.3 and f"{100 * share:.1f} %" in worst.number and "30 %" in worst.limit
    assert said["course"].kind == PROBLEM and said["course"].method == "elr"
    assert said["distances"].kind == PROBLEM and "tether encode" in said["distances"].remedy
    assert [v.weight for v in found.problems] == sorted(
        (v.weight for v in found.problems), reverse=True
    )


def test_wrong_labels_resisted():
    said, found = verdicts("elr")
    assert not {"memorisation", "course"} & set(said)
    assert found.problems == []
    assert found.lines()[0].startswith("nothing is going wrong, as far as ")
    assert all(verdict.kind == NOTE for verdict in found.verdicts)


def test_clean_labels():
    said, found = verdicts("few")
    assert found.problems == [] and "memorisation" in found.missing
    assert "true labels" in found.missing["memorisation"]
    assert found.outcomes["probe"].found.values["accuracy"] < 0.9  # fine-tuning gained something
    assert "probe" not in said


def test_features_that_shrink_and_those_that_do_not():
    said, found = verdicts("shrunk", only=("features",))
    assert said["features"].kind == PROBLEM and said["features"].method == "adarand"
    values = found.outcomes["features"].found.values
    assert values["norm_mean"] < 0.5 * values["start_norm_mean"]
    assert verdicts("few", only=("features",))[0] == {}


def test_features_that_lose_directions():
    def flatten(subject):
        weight = subject.model.layer2.weight
        weight.copy_(weight.mean(0, keepdim=True).expand_as(weight).abs())

    _, found = verdicts("few", change=flatten, only=("features",))
    assert any("use far fewer directions" in verdict.says for verdict in found.problems)


def test_head_alone():
    said, _ = verdicts("head", only=("distances", "probe"))
    assert said["distances"].kind == NOTE and "Nothing but the head" in said["distances"].says
    assert "probe" not in said  # it would say the same
    assert "distances" not in verdicts("few", only=("distances",))[0]


def test_sharp_and_sure():
    def sharpen(subject):
        subject.model.head.weight.mul_(100)
        subject.model.head.bias.mul_(100)

    only = ("noise_stability", "confidence")
    said, found = verdicts("noisy", "last", change=sharpen, only=only)
    assert said["noise_stability"].method == "l2_sp"
    assert said["confidence"].method == "label_smoothing"
    values = found.outcomes["confidence"].found.values
    assert values["over"] == pytest.approx(values["confidence"] - values["accuracy"])
    assert verdicts("few", only=only)[0] == {}


def test_rare_classes():
    def drown(subject):
        subject.model.head.bias[3] = -100.0
        subject.class_counts[3] = 2

    said, found = verdicts("few", change=drown, only=("classes",))
    assert said["classes"].method == "class_weights"
    worst = min(found.outcomes["classes"].found.more["rows"], key=lambda row: row["recall"])
    assert worst["class"] == "3" and worst["recall"] == 0.0 and worst["times"] > 0

    def drown_only(subject):
        subject.model.head.bias[3] = -100.0  # as many samples as any other: no imbalance

    assert verdicts("few", change=drown_only, only=("classes",))[0] == {}


def test_training_samples_known_better():
    found = Found({"train_accuracy": 1.0, "held_out_accuracy": 0.8})
    assert judge_scores(found, {})[0].method == "l2_sp"
    found.values["held_out_accuracy"] = 0.9
    assert judge_scores(found, {}) == []


def test_a_loss_that_rises_again_is_told_as_one():
    more = {"metric": "loss", "curves": {}}
    values = {"best": 0.5, "best_epoch": 3.0, "last": 0.8, "epochs": 9.0}
    (said,) = judge_course(Found(values, more), {})
    assert said.method == "l2_sp" and "0.5 in epoch 3, 0.8 in epoch 9" in said.number
    assert judge_course(Found({**values, "last": 0.4}, more), {}) == []


def test_without_a_start_nothing_is_said_of_a_fall():
    assert judge_features(Found({"norm_mean": 1.0, "effective_rank": 1.0}), {}) == []


def test_methods_that_are_named_exist():
    folder = Path(tether.diagnose.__file__).parent
    texts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    named = set(re.findall(r"--method (\w+)", texts))
    assert {"elr", "adarand", "l2_sp", "label_smoothing", "layerwise_constraint"} <= named
    assert named <= set(list_methods())
