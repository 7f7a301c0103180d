"""What each row of a run's metrics tells, and that telling it changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.toys import image_folder, settings
from tether.files import read_rows
from tether.labels.record import FOLDER, read_record
from tether.measure import feature_entropy, feature_norms
from tether.tuning.epoch_measures import SAMPLES
from tether.tuning.job import tune
from tether.tuning.opened import open_run

LABELS = {"label_agreement", "memorised", "resisted", "clean_fitted"}
FEATURES = {"feature_norm", "feature_entropy"}


def trained(output: Path, data: Path | str = "demo:digits", **given: Any) -> list[dict[str, Any]]:
    """Rows of a short run."""
    torch.set_num_threads(1)
    tune(settings(data, output, **{"epochs": 2, "export": "last", **given}))
    return read_rows(output / "metrics.jsonl")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("measures") / "run"
    return folder, trained(folder)


def test_rows_tell_what_the_weights_and_features_say(
    digits: tuple[Path, list[dict[str, Any]]],
) -> None:
    run, rows = digits
    opened, row = open_run(run, weights="last"), rows[-1]
    below = []
    for group in ("layer1", "layer2"):
        name = f"{group}.weight"
        distance = float((opened.model.state_dict()[name] - opened.reference[name]).double().norm())
        assert row[f"distance.{group}"] == pytest.approx(distance, rel=1e-5)
        below.append(distance)
    assert row["distance"] == pytest.approx(math.hypot(*below), rel=1e-5)
    head = opened.model.state_dict()["head.weight"].double().norm()
    assert row["head_norm"] == pytest.approx(float(head), rel=1e-5)
    # the first rows of the validation split, in evaluation mode
    table = opened.assembly.splits["validation"].table
    assert len(table) < SAMPLES or len(table.inputs[:SAMPLES]) == SAMPLES
    heard: list[torch.Tensor] = []
    hook = opened.model.get_submodule("head").register_forward_pre_hook(
        lambda module, args: heard.append(args[0])
    )
    with torch.no_grad():
        opened.model(torch.as_tensor(np.stack(table.inputs[:SAMPLES])))
    hook.remove()
    assert row["feature_norm"] == pytest.approx(feature_norms(heard[0])["mean"], rel=1e-4)
    assert row["feature_entropy"] == pytest.approx(float(feature_entropy(heard[0])), rel=1e-3)


def test_rows_tell_what_became_of_the_labels(digits: tuple[Path, list[dict[str, Any]]]) -> None:
    run, rows = digits
    record = read_record(run / FOLDER)
    table = open_run(run).assembly.source.tables["train"]
    given, true = np.asarray(table.labels), np.asarray(table.true_labels)
    wrong = given != true
    assert 0 < wrong.sum() < len(given)
    for epoch, row in enumerate(rows):
        said = record.column("predicted")[epoch]
        assert row["label_agreement"] == pytest.approx((said == given).mean())
        assert row["memorised"] == pytest.approx((said == given)[wrong].mean())
        assert row["resisted"] == pytest.approx((said == true)[wrong].mean())
        assert row["clean_fitted"] == pytest.approx((said == given)[~wrong].mean())


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    """Batch norm, dropout, random transforms: the run is the same bit for bit without it."""
    data = image_folder(tmp_path / "data", per_class=6)
    model = {"model": "timm:test_resnet", "model_args": {"pretrained": False, "drop_rate": 0.2}}
    measured = trained(tmp_path / "on", data, **model)
    plain = trained(tmp_path / "off", data, **model, epoch_measures=False)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("on", "off")]
    assert weights[0].keys() == weights[1].keys()
    assert any(name.endswith("running_var") for name in weights[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for one, two in zip(measured, plain, strict=True):
        own = {k for k in one if k not in two}
        assert {"distance", "head_norm", "label_agreement", *FEATURES} <= own
        assert all(one[k] == two[k] for k in two if k not in ("seconds",) and "per_s" not in k)


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    (row, *_) = trained(tmp_path / "unrecorded", epochs=1, record=False)
    assert row.keys() >= {"distance", *FEATURES} and not LABELS & row.keys()
    (row, *_) = trained(tmp_path / "clean", "demo:digits-few", epochs=1)
    assert "label_agreement" in row and "memorised" not in row
    (row, *_) = trained(tmp_path / "probe", "demo:digits-few", epochs=1, freeze="backbone")
    assert row["distance"] == 0.0 and row["head_norm"] > 0


def test_a_method_that_has_the_start_is_not_asked_to_keep_it_twice(tmp_path: Path) -> None:
    """The copy that a constraint needs serves the measures, too, and tells the same."""
    free = trained(tmp_path / "free", epochs=1)
    bound = trained(tmp_path / "bound", epochs=1, methods=["l2_sp:weight=0,head_weight=0"])
    for key in ("distance", "distance.layer1", "distance.layer2", "head_norm"):
        assert bound[0][key] == pytest.approx(free[0][key], rel=1e-6)
