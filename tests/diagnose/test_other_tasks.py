"""Texts, several labels a sample, and numbers: the measures that fit are taken."""

from __future__ import annotations

import csv

import pytest

from tests.models.tiny import bert_folder
from tests.tuning.toys import settings
from tether.diagnose import examine, run_subject
from tether.tuning.job import tune

#: What needs one class a sample.
CLASSED = {"classes", "collapse", "boundary", "probe", "confidence", "robustness", "pac_bayes"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    bert_folder(folder / "bert")
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "topics", "stars"])
        for i in range(32):
            word = ("good", "bad")[i % 2]
            topics = ";".join(t for t, yes in (("film", i % 3), ("plot", i % 2)) if yes)
            writer.writerow([f"the film was {word} and very {i}", word, topics or "it", i % 5])
    return folder


@pytest.mark.parametrize(
    ("column", "task", "missing"),
    [
        ("label", "single_label", {"memorisation", "robustness"}),
        ("topics", "multi_label", {"memorisation", *CLASSED}),
        ("stars", "regression", {"memorisation", *CLASSED}),
    ],
)
def test_texts(texts, tmp_path, column, task, missing):
    given = {"text_column": "text", "label_column": column, "task": task, "model_args": {},
             "model": str(texts / "bert"), "image_size": 0, "epochs": 1}  # fmt: skip
    tune(settings(texts / "reviews.csv", tmp_path / "run", **given))
    found = examine(run_subject(tmp_path / "run"))
    assert {name for name, o in found.outcomes.items() if o.status == "failed"} == set()
    # the features of an untrained network are all but equal: there may be nothing to probe
    assert set(found.missing) - {"probe"} == missing - {"probe"}, found.missing
    if task != "single_label":
        assert all(task in found.missing[name] for name in CLASSED - {"robustness"})
    assert found.outcomes["distances"].found.values["body"] > 0
    assert "start_entropy" in found.outcomes["features"].found.values
