"""What is recorded is what training said; nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.reference import label_record_twins as twins
from tests.two_ranks import two_ranks
from tether import (
    EarlyLearningRegularization,
    SelfLabelCorrection,
    TetherError,
    attach,
    create_method,
)
from tether.errors import ConfigError
from tether.labels.record import (
    COLUMNS,
    SampleRecord,
    class_columns,
    multi_label_columns,
    read_record,
)
from tether.tuning.job import tune

CLASSES, SAMPLES = 3, 22


def toy(labels=None):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 5, generator=generator)
    y = torch.randint(0, CLASSES, (SAMPLES,), generator=generator) if labels is None else labels
    torch.manual_seed(4)
    return TensorDataset(x, y), nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def trained(methods, data, model, epochs=3, see=None, **options):
    """The loop that a user writes; ``see`` gets rows, logits and labels of every batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with attach(model, methods, optimizer, train_data=data, epochs=epochs, **options) as reg:
        for epoch in range(epochs):
            order = torch.Generator().manual_seed(epoch)
            for x, y in reg.batches(DataLoader(data, 5, shuffle=True, generator=order)):
                logits = model(x)
                if see is not None:
                    see(epoch, reg.stream.rows.clone(), logits.detach().clone(), y)
                reg.loss(logits, y).backward()
                optimizer.step()
                optimizer.zero_grad()
        reg.end_epoch()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_columns_agree_with_their_twins():
    generator = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 5, (40,), generator=generator)
    found = torch.stack([c.double() for c in class_columns(z, y)], 1)
    np.testing.assert_allclose(found, twins.class_columns(z.numpy(), y.numpy()), atol=1e-6)
    several = torch.randint(0, 2, (40, 5), generator=generator)
    found = torch.stack([c.double() for c in multi_label_columns(z, several)], 1)
    want = twins.multi_label_columns(z.numpy(), several.numpy())
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_the_record_holds_what_the_steps_said(tmp_path):
    data, model = toy()
    want = np.zeros((3, SAMPLES), dtype=COLUMNS)
    shares = np.zeros((SAMPLES, CLASSES))

    def see(epoch, rows, logits, labels):
        for row, z, columns in zip(rows.tolist(), logits,
                                   twins.class_columns(logits.numpy(), labels.numpy()),
                                   strict=True):  # fmt: skip
            want[epoch, row] = (*columns[:3], 1.0, columns[3], labels[rows.tolist().index(row)])
            shares[row] += z.softmax(0).numpy() / 3

    method = SampleRecord(tmp_path / "record", about={"class_names": ["a", "b", "c"]})
    trained([method], data, model, see=see)
    record = read_record(tmp_path / "record")
    assert record.about["epochs"] == 3 and record.about["class_names"] == ["a", "b", "c"]
    assert record.given.tolist() == data.tensors[1].tolist()
    for name in COLUMNS.names:
        np.testing.assert_allclose(record.column(name), want[name].astype(np.float32), rtol=2e-3,
                                   atol=2e-3)  # fmt: skip
    np.testing.assert_allclose(np.asarray(record.means, dtype=np.float64), shares, atol=2e-3)
    size = sum(path.stat().st_size for path in (tmp_path / "record").glob("epoch-*.npy"))
    assert size - 3 * 12 * SAMPLES <= 3 * 256  # what numpy says at the head of a file


def test_training_is_the_same_bit_for_bit(tmp_path):
    recipe = [EarlyLearningRegularization(), create_method("confidence_reweighting")]
    data, model = toy()
    plain = trained(recipe, data, model)
    recipe = [EarlyLearningRegularization(), create_method("confidence_reweighting")]
    data, model = toy()
    beside = trained([*recipe, SampleRecord(tmp_path)], data, model)
    assert all(torch.equal(plain[name], beside[name]) for name in plain)


def test_what_other_methods_decide_is_recorded(tmp_path):
    data, model = toy()
    correction = SelfLabelCorrection(threshold=0.36, start_epoch=2)
    trained([correction, create_method("confidence_reweighting", start_epoch=1),
             SampleRecord(tmp_path)], data, model)  # fmt: skip
    record = read_record(tmp_path)
    assert (correction.current_labels != correction.given_labels).any()
    assert record.column("target")[-1].tolist() == correction.current_labels.tolist()
    assert record.given.tolist() == correction.given_labels.tolist()
    assert np.ptp(record.column("weight")[-1]) > 0


def test_rows_that_do_not_count_stay_unseen(tmp_path):
    labels = torch.arange(SAMPLES) % CLASSES
    labels[4] = -100
    data, model = toy(labels)
    trained([SampleRecord(tmp_path)], data, model)
    record = read_record(tmp_path)
    unseen = np.isnan(record.column("loss"))
    assert unseen[:, 4].all() and unseen.sum() == 3
    assert record.given[4] == -1 and not record.means[4].any()


def test_several_labels_a_sample(tmp_path):
    several = (torch.arange(SAMPLES * CLASSES).view(SAMPLES, CLASSES) % 2).float()
    data, model = toy(several)
    trained([SampleRecord(tmp_path)], data, model, loss="binary_cross_entropy")
    record = read_record(tmp_path)
    assert record.about["task"] == "multi_label"
    assert record.given.tolist() == several.int().tolist()
    assert np.isfinite(record.column("loss")).all()


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_records_the_same(tmp_path):
    data, model = toy()
    trained([SampleRecord(tmp_path / "whole")], data, model, epochs=2)

    def until(stop, state=None, weights=None):
        data, model = toy()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        reg = attach(model, [SampleRecord(tmp_path / "broken")], optimizer, train_data=data,
                     epochs=2)  # fmt: skip
        if state is not None:
            model.load_state_dict(weights)
            reg.load(state)
        count = 0
        for epoch in range(reg.epoch, 2):
            order = torch.Generator().manual_seed(epoch)
            for x, y in reg.batches(DataLoader(data, 5, shuffle=True, generator=order)):
                reg.loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
                count += 1
                if count == stop:
                    reg.save(tmp_path / "state.safetensors")
                    kept = {name: value.clone() for name, value in model.state_dict().items()}
                    reg.detach()
                    return kept
        reg.end_epoch()
        reg.detach()
        return None

    weights = until(8)  # the third batch of the second epoch
    until(0, tmp_path / "state.safetensors", weights)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes(), path.name


def _on_two_ranks(rank: int, out: Path) -> None:
    data, model = toy()
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    mine = torch.arange(rank, SAMPLES, 2)
    with attach(model, [SampleRecord(out / "record")], optimizer, train_data=data,
                epochs=2) as reg:  # fmt: skip
        for _ in range(2):
            reg.start_epoch()
            for rows in mine.split(4):
                logits = model(data.tensors[0][rows])
                torch.save(logits.detach(), out / f"{reg.epoch}-{rows[0]}.pt")
                reg.loss(logits, data.tensors[1][rows], index=rows).backward()
                optimizer.step()
                optimizer.zero_grad()
            reg.end_epoch()
    dist.barrier()


@pytest.mark.long
def test_two_ranks_record_the_samples_of_both(tmp_path):
    two_ranks(_on_two_ranks, tmp_path)
    record, (data, _) = read_record(tmp_path / "record"), toy()
    assert record.given.tolist() == data.tensors[1].tolist()
    for epoch in range(2):
        for first in range(2):
            for rows in torch.arange(first, SAMPLES, 2).split(4):
                logits = torch.load(tmp_path / f"{epoch}-{rows[0]}.pt", weights_only=True)
                loss, margin, _, predicted = class_columns(logits, data.tensors[1][rows])
                at = record.epochs[epoch][rows.numpy()]
                assert at["loss"].tolist() == loss.half().tolist()
                assert at["margin"].tolist() == margin.half().tolist()
                assert at["predicted"].tolist() == predicted.tolist()


def test_other_tasks_are_refused(tmp_path):
    data, model = toy(torch.randn(SAMPLES, CLASSES))
    with pytest.raises(TetherError, match="sample_record"):
        attach(model, [SampleRecord(tmp_path)], train_data=data, loss="mse")
    assert not list(tmp_path.iterdir())


def test_tune_records_unless_it_is_told_not_to(tmp_path):
    given = {"model": "demo:digits", "data": "demo:digits", "epochs": 2, "lr": 0.01,
             "methods": ["elr"], "device": "cpu"}  # fmt: skip
    one = tune({**given, "output_dir": str(tmp_path / "with")})
    two = tune({**given, "output_dir": str(tmp_path / "without"), "record": False})
    assert one.last == two.last
    record = read_record(tmp_path / "with" / "labels" / "record")
    assert record.about["epochs"] == 2 and len(record.given) == 400
    assert np.isfinite(record.column("loss")).all()
    assert not (tmp_path / "without" / "labels").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "about.json").unlink(), "no record of samples: train with --record"),
        (
            lambda f: (f / "epoch-0001.npy").write_bytes(b"no array"),
            "epoch-0001.npy cannot be read",
        ),
        (lambda f: np.save(f / "given.npy", np.zeros(3)), "given.npy holds float64 of shape"),
        (lambda f: (f / "about.json").write_text(json.dumps({"format": 9})), "format 9"),
    ],
)
def test_a_damaged_record_is_told(tmp_path, spoil, message):
    data, model = toy()
    trained([SampleRecord(tmp_path)], data, model, epochs=2)
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_record(tmp_path)
