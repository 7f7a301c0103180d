"""A loop around an Accelerator gives what the bare loop gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("accelerate")

import accelerate
from accelerate.utils import DataLoaderConfiguration

import tether
from tests.integrations.toys import (
    CLIP,
    EPOCHS,
    KINDS,
    LR,
    Net,
    plain_loop,
    prepared_net,
    same_state,
    samples,
    several,
    weights,
)
from tether import L2SP, EarlyLearningRegularization, TetherError
from tether.integrations.accelerate import attach_prepared

close = {"rtol": 1e-5, "atol": 1e-6}


def prepared(methods, batch=8, accumulate=1, shuffle=False, workers=0, net=None, helper=True):
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=accumulate,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )  # fmt: skip
    model, data = net or prepared_net(methods), samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.5 if net else 0.0)
    loader = DataLoader(data, batch_size=batch, shuffle=shuffle, num_workers=workers)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    options = {"train_data": data, "total_steps": EPOCHS * 4, "num_classes": 3}
    if helper:
        reg = attach_prepared(accelerator, model, methods, optimizer, **options)
    else:
        reg = tether.attach(model, methods, optimizer, **options)
    return accelerator, model, optimizer, loader, reg


def train(accelerator, model, optimizer, loader, reg, stop=None, save=None):
    steps = 0
    for _ in range(reg.epoch, EPOCHS):
        for x, y in reg.batches(loader):
            if reg.stream.rows is not None and not reg.acting("transform_batch"):
                assert torch.equal(samples().tensors[0][reg.stream.rows], x)
            with accelerator.accumulate(model):
                accelerator.backward(reg.loss(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
            steps += 1
            if steps == stop:
                accelerator.save_state(save)
                return
    reg.end_epoch()


@pytest.mark.parametrize("helper", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_same_weights_and_state_as_the_bare_loop(kind, helper):
    setting = prepared(KINDS[kind](), helper=helper)
    train(*setting)
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(setting[1]), expected, **close)
    same_state(setting[-1], reg)


@pytest.mark.parametrize("kind", ["l2_sp", "layerwise", "elr"])
def test_four_times_two_is_eight(kind):
    setting = prepared(KINDS[kind](), batch=4, accumulate=2)
    train(*setting)
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(setting[1]), expected, **close)
    assert setting[-1].step == reg.step


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_prepared_loader(workers):
    accelerator, _, _, loader, reg = prepared(
        EarlyLearningRegularization(), batch=5, shuffle=True, workers=workers
    )
    orders = []
    for _ in range(2):
        rows = []
        for x, _ in reg.batches(loader):
            assert torch.equal(samples().tensors[0][reg.stream.rows], x)
            rows.extend(reg.stream.rows.tolist())
            assert accelerator.gradient_state.end_of_dataloader == (len(rows) == 32)
        orders.append(rows)
    assert sorted(orders[0]) == list(range(32))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("stop", [4, 6])
def test_save_state_resumes_in_the_middle_of_an_epoch(stop, tmp_path):
    def build():
        torch.manual_seed(5)
        return prepared(several(), shuffle=True, net=Net(drop=0.3))

    whole = build()
    train(*whole)
    broken = build()
    train(*broken, stop=stop, save=tmp_path)
    again = build()
    torch.rand(7)
    again[0].load_state(tmp_path)
    train(*again)
    assert torch.equal(weights(again[1]), weights(whole[1]))
    same_state(again[-1], whole[-1])


def test_sharding_that_did_not_happen_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TetherError, match="FSDP was asked for and no parameter is sharded"):
        prepared(L2SP())


def test_a_deep_copied_optimizer_is_found_out():
    _, model, optimizer, loader, reg = prepared(L2SP())
    other = copy.deepcopy(optimizer.optimizer)

    def loop():
        for _ in range(40):
            for x, y in reg.batches(loader):
                reg.loss(model(x), y).backward()
                other.step()
                optimizer.zero_grad()

    with pytest.raises(TetherError, match="made no step"):
        loop()


def test_bf16():
    def reset():
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)

    reset()  # one precision a process
    try:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        model, optimizer, loader = accelerator.prepare(
            model, optimizer, DataLoader(samples(), batch_size=8)
        )
        reg = attach_prepared(
            accelerator, model, several(), optimizer, train_data=samples(), total_steps=12
        )
        train(accelerator, model, optimizer, loader, reg)
    finally:
        reset()
    expected, _ = plain_loop(several())
    torch.testing.assert_close(weights(model), expected, rtol=0.1, atol=0.05)
