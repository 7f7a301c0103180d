"""What is there is still told where data, weights, labels or classes are missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.diagnose.runs import run
from tests.tuning.toys import image_folder, settings
from tether.diagnose import examine, kept_subject, model_subject, run_subject
from tether.diagnose.diagnosis import Diagnosis
from tether.diagnose.job import diagnose, report
from tether.errors import ConfigError
from tether.tuning.job import tune

WITHOUT_MODEL = {"course"}


@pytest.fixture
def own(tmp_path):
    """A copy of a run that may be damaged."""
    return shutil.copytree(run("few"), tmp_path / "few", symlinks=True)


def taken(found):
    assert not [o.reason for o in found.outcomes.values() if o.status == "failed"]
    return {name for name, outcome in found.outcomes.items() if outcome.status == "ok"}


@lru_cache
def whole():
    """The diagnosis of a run that lacks nothing but true labels."""
    return examine(run_subject(run("few")))


def test_everything_is_taken_of_a_whole_run():
    assert set(whole().outcomes) - taken(whole()) == {"memorisation"}


def test_data_gone(tmp_path):
    data = image_folder(tmp_path / "photos", per_class=6, pixels=32)
    tune(settings(data, tmp_path / "run", epochs=1, batch_size=12))
    shutil.rmtree(data)
    found = examine(run_subject(tmp_path / "run"))
    assert taken(found) == {"distances", "course"}
    assert "photos" in found.missing["scores"]
    assert found.outcomes["distances"].found.values["body"] > 0


def test_pretrained_weights_gone_and_given_again(tmp_path):
    weights = tmp_path / "pretrained.safetensors"
    first = run_subject(run("few"))
    began = {n: t.clone() for n, t in first.reference.items() if not n.startswith("head.")}
    save_file(began, weights)
    told = {"weights": str(weights), "lr": 0.01, "seed": 0}
    tune(settings("demo:digits-few", tmp_path / "run", epochs=1, **told))
    before = examine(run_subject(tmp_path / "run"), only=("distances",))
    weights.rename(tmp_path / "moved.safetensors")
    found = examine(run_subject(tmp_path / "run"))
    lost = taken(whole()) - taken(found)
    assert lost == {"distances", "hessian_distance", "pac_bayes", "probe"}
    assert all("pretrained.safetensors" in found.missing[name] for name in lost)
    assert "start_entropy" not in found.outcomes["features"].found.values
    again = examine(run_subject(tmp_path / "run", reference=str(tmp_path / "moved.safetensors")))
    assert taken(again) == taken(whole())
    body = [one.outcomes["distances"].found.values["body"] for one in (before, again)]
    assert body[0] == pytest.approx(body[1]) and body[0] > 0


def test_reference_of_another_network(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"stem.weight": torch.zeros(3, 3), "blocks.0.weight": torch.zeros(9, 3)}, other)
    found = examine(run_subject(run("few"), reference=str(other)), only=("distances", "scores"))
    assert taken(found) == {"scores"}
    assert "belongs to another model" in found.missing["distances"]
    with pytest.raises(ConfigError, match="no such file"):
        run_subject(run("few"), reference=str(tmp_path / "nowhere.safetensors"))


def test_weights_that_are_no_numbers(own):
    file = own / "checkpoints/best/model.safetensors"
    state = load_file(file)
    state["layer1.weight"][0, 0] = float("nan")
    with safe_open(file, "pt") as kept:
        about = kept.metadata()
    save_file(state, file, about)
    found = examine(run_subject(own))
    assert taken(found) == WITHOUT_MODEL
    assert "1 tensors, the first is 'layer1.weight'" in found.missing["distances"]


def test_data_without_labels(tmp_path):
    rows = np.stack([np.asarray(x) for x in few_inputs(40)])
    np.save(tmp_path / "rows.npy", rows)
    subject = model_subject(run("few"), data=str(tmp_path / "rows.npy"), reference=str(run("few")))
    found = examine(subject)
    assert taken(found) == {"distances", "features"}
    assert found.missing["scores"] == "the data have no labels"
    assert found.missing["pac_bayes"] == "only a run tells what it was trained on"
    values = found.outcomes["features"].found.values
    assert values["linear_cka"] == pytest.approx(1.0) and "class_separation" not in values
    assert found.outcomes["distances"].found.values["total"] == 0.0  # it is its own reference


def test_one_sample_and_missing_classes(tmp_path):
    few = examine(run_subject(run("few"), samples=6))
    note = next(v for v in few.verdicts if v.step == "classes")
    assert note.kind == "note" and "4 of 10 classes" in note.number
    one = examine(run_subject(run("few"), samples=1))
    assert {"scores", "classes", "distances", "confidence", "noise_stability"} <= taken(one)
    assert "single sample" in one.missing["features"]
    assert diagnose(run("few"), samples=1, output=tmp_path / "one")[1][1].is_file()


def few_inputs(number):
    return run_subject(run("few")).samples["held_out"].table.inputs[:number]


def test_no_time_and_little_time():
    none = examine(run_subject(run("few")), max_seconds=1e-9)
    assert taken(none) == set()
    assert "--max-seconds" in none.missing["scores"]
    assert none.lines() == ["nothing can be said: no measure could be taken"]


def test_a_measure_that_breaks_does_not_take_the_others_along(monkeypatch):
    from tether.diagnose import groups, scores

    def broken(case):
        raise ZeroDivisionError("by zero\nand more")

    step = scores.GROUP.steps[0]
    group = type(scores.GROUP)("T", "", (type(step)(step.name, "T", (), broken, step.draw),))
    monkeypatch.setattr(groups, "GROUPS", (group, groups.GROUPS[2]))
    found = examine(run_subject(run("few")))
    assert found.outcomes["scores"].status == "failed"
    assert found.missing["scores"] == "ZeroDivisionError: by zero"
    assert found.outcomes["distances"].status == "ok"


# -- nothing is changed, everything is kept --------------------------------------------------------


def test_model_and_random_numbers_stay_as_they_are():
    subject = run_subject(run("few"))
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    examine(subject)
    assert all(torch.equal(before[n], t) for n, t in subject.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not subject.model.training and all(p.grad is None for p in subject.model.parameters())


def test_two_diagnoses_are_the_same():
    first, second = whole().as_json(), examine(run_subject(run("few"))).as_json()
    for kept in (first, second):
        kept.pop("seconds")
        for step in kept["steps"].values():
            step.pop("seconds")
    assert first == second


def test_written_and_read_again(tmp_path):
    found = replace(whole())
    found.against = examine(kept_subject(run("head")))
    found.write(tmp_path / "diagnosis.json")
    again = Diagnosis.read(tmp_path / "diagnosis.json")
    assert again.as_json() == found.as_json() and again.verdicts == found.verdicts
    kept = json.loads((tmp_path / "diagnosis.json").read_text())
    assert kept["verdict"] == found.lines() and kept["steps"]["scores"]["status"] == "ok"
    (tmp_path / "other.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99"):
        Diagnosis.read(tmp_path / "other.json")
    (tmp_path / "half.json").write_text('{"format": 1, "steps": {}}')
    with pytest.raises(ConfigError, match="no diagnosis"):
        Diagnosis.read(tmp_path / "half.json")


def test_outputs_are_those_of_model_and_start():
    from tether.diagnose.passes import Passes

    subject = run_subject(run("few"))
    passes = Passes(subject, batch_size=7)
    x = torch.stack([torch.as_tensor(v) for v in subject.samples["held_out"].table.inputs])
    with torch.no_grad():
        now, features = subject.model(x), subject.model.features(x)
        subject_start = run_subject(run("few"))
        subject_start.model.load_state_dict(subject.reference)
        start = subject_start.model.features(x)
    out = passes.outputs("held_out")
    assert torch.allclose(out.logits, now, atol=1e-4)
    assert torch.allclose(out.features, features, atol=1e-4)
    assert torch.allclose(passes.outputs("held_out", start=True).features, start, atol=1e-4)
    assert passes.outputs("held_out") is out  # made once
    sizes = [len(batch["labels"]) for batch in passes.batches("held_out", 10)]
    assert sizes == [7, 3]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give the folder of a run, or --model and --data"),
        ({"run": "R", "model": "m"}, "not both"),
        ({"model": "m"}, "--model needs --data"),
        ({"run": "R", "samples": 0}, "samples must be at least 1"),
        ({"run": "R", "max_seconds": -1.0}, "max_seconds must be 0 or more"),
        ({"run": "R", "split": "train"}, "split must be one of validation, test"),
        ({"run": "R", "weights": "good"}, "weights must be one of best, last, exported"),
        ({"run": "R", "only": ["scorse"]}, "did you mean 'scores'"),
        ({"run": "nowhere"}, "no such folder"),
        ({"model": "R", "data": "nowhere.csv"}, "nowhere.csv"),
        ({"model": "R", "data": "demo:digits", "options": {"textcolumn": "x"}}, "textcolumn"),
    ],
)
def test_refusals(given, message, tmp_path):
    given = {key: run("few") if value == "R" else value for key, value in given.items()}
    with pytest.raises(ConfigError, match=message):
        diagnose(**given, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_refusals(tmp_path):
    with pytest.raises(ConfigError, match="folders of some runs"):
        report([], tmp_path / "r.html")
    with pytest.raises(ConfigError, match="no such folder"):
        report([tmp_path / "nowhere"], tmp_path / "r.html")
    with pytest.raises(ConfigError, match="is a folder"):
        report([run("few")], tmp_path)
    assert not (tmp_path / "r.html").exists()
