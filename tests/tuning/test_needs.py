"""What methods ask of the data layer comes with the batches of a run, and the plan tells of it."""

from __future__ import annotations

import csv
from typing import ClassVar

import pytest
import torch

from tests.tuning.test_job import Breaks
from tests.tuning.toys import settings
from tether import catalogue
from tether.errors import ConfigError
from tether.method import Method
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.plan import plan


@pytest.fixture
def asking():
    """Registers methods that keep what they asked for, and takes them out of the register."""
    names = []

    def make(need, **record):
        name = f"keeps_{need}"

        @catalogue.register(name, kind="inputs", needs=(need, "inputs", "index"), **record)
        class Keeps(Method):
            """Keeps what comes with a batch."""

            seen: ClassVar = []

            def __init__(self, weight=1.0):
                self.weight = weight

            def penalty(self, batch):
                assert batch.extras.keys() == {need}
                self.seen.append((batch.index, batch.kwargs, batch.extras[need]))
                return batch.logits.sum() * 0

        names.append(name)
        return Keeps

    yield make
    for name in names:
        del catalogue._METHODS[name]


@pytest.mark.parametrize("augment", ["default", "none"])
def test_views(images, tmp_path, asking, augment):
    kept = asking("views", views=3)
    given = {"methods": ["keeps_views"], "augment": augment, "epochs": 1, "export": "none"}
    tune(settings(images, tmp_path / "run", **given))
    assert len(kept.seen) == 3
    for _, inputs, views in kept.seen:
        own = inputs["x"]
        assert len(views) == 2 and views[0].shape == own.shape == (8, 3, 32, 32)
        same = augment == "none"
        assert torch.equal(views[0], own) == torch.equal(views[0], views[1]) == same


def test_views_of_texts(of_texts, asking):
    kept = asking("views")
    tune(of_texts(methods=["keeps_views"], epochs=1, export="none"))
    _, inputs, (view,) = kept.seen[0]
    assert view.keys() == inputs.keys()
    assert torch.equal(view["input_ids"], inputs["input_ids"])


def test_domains_are_balanced(of_texts, texts, asking):
    kept = asking("domains")
    tune(of_texts(methods=["keeps_domains"], domain_column="place", limit_train=30))
    for _, _, domains in kept.seen:
        assert domains.bincount().tolist() == [4, 4]
    with pytest.raises(ConfigError, match=r"'keeps_domains' needs domains: give --domain-column"):
        tune(of_texts("other", methods=["keeps_domains"]))
    with pytest.raises(ConfigError, match=r"batch_size: 7 samples cannot hold .* 2 domains; take"):
        tune(of_texts("other", methods=["keeps_domains"], domain_column="place", batch_size=7))


def test_unlabelled_images_go_on_where_a_run_was_broken_off(images, tmp_path, asking):
    kept = asking("unlabelled")
    given = {"methods": ["keeps_unlabelled"], "unlabelled": str(images), "grad_accum_steps": 2,
             "batch_size": 4, "epochs": 3, "export": "none"}  # fmt: skip
    tune(settings(images, tmp_path / "whole", **given))
    whole = [found for _, _, found in kept.seen]
    assert len(whole) == 18 and whole[0].shape == (4, 3, 32, 32)
    assert not torch.equal(whole[0], whole[1])
    kept.seen.clear()
    broken = settings(images, tmp_path / "broken", **given)
    with pytest.raises(RuntimeError, match="on purpose"):
        tune(broken, callbacks=[Breaks()])
    tune(broken, resume=True)
    assert len(kept.seen) == 18
    for one, (_, _, two) in zip(whole, kept.seen, strict=True):
        assert torch.equal(one, two)


def test_pairs_and_unlabelled_texts(of_texts, tmp_path, asking):
    preferred, more = tmp_path / "pairs.csv", tmp_path / "more.txt"
    with preferred.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["prompt", "chosen", "rejected"], *[["the film", "good", "bad and awful"]] * 5]
        )
    more.write_text("good film\nawful plot\n" * 3)
    pairs, unlabelled = asking("pairs"), asking("unlabelled")
    given = {"epochs": 1, "export": "none"}
    tune(of_texts("one", methods=["keeps_pairs"], pairs=str(preferred), **given))
    _, _, found = pairs.seen[0]
    assert found["chosen"]["input_ids"].shape[0] == found["rejected"]["input_ids"].shape[0] == 8
    assert found["rejected"]["input_ids"].shape[1] > found["chosen"]["input_ids"].shape[1]
    tune(of_texts("two", methods=["keeps_unlabelled"], unlabelled=str(more), **given))
    assert unlabelled.seen[0][2]["input_ids"].shape[0] == 8
    for name in ("pairs", "unlabelled"):
        with pytest.raises(ConfigError, match=f"'keeps_{name}' needs {name}: give --{name} PATH"):
            tune(of_texts("other", methods=[f"keeps_{name}"]))


def test_the_plan_says_who_asked_for_what(images, tmp_path, asking):
    kept = asking("views", views=4)
    given = {"methods": ["elr", "keeps_views", "l2_sp:weight=0.5"], "shots": 5}
    config = load_config(settings(images, tmp_path / "run", **given))
    sections = dict(plan(config))
    lines = "\n".join(sections["methods"])
    assert "Keeps(): Keeps what comes with a batch." in lines
    (asked,) = [one for one in sections["methods"] if one.startswith("  keeps_views asks for")]
    assert "views" in asked.partition("for")[2] and "inputs" in asked
    assert "elr asks for" in lines and "L2SP(weight=0.5)" in lines
    assert "15" in "\n".join(sections["data"])
    assert "2 epochs of 2 updates" in sections["training"][0]
    assert str(tmp_path / "run") in sections["output"][0]
    assert kept.seen and not (tmp_path / "run").exists()  # measured on real updates
    assert not list(tmp_path.iterdir())


def test_the_plan_of_stages(images, tmp_path):
    stages = [{"epochs": 1, "freeze": "backbone"}, {"epochs": 3, "methods": ["l2_sp"]}]
    sections = dict(plan(load_config(settings(images, tmp_path / "run", stages=stages))))
    assert "plain" in sections["stage 1: methods"][0]
    assert "L2SP" in sections["stage 2: methods"][0]
    assert "3 epochs" in sections["stage 2: training"][0]
