"""No method waits for the device: nothing in tether's part of a step reads a tensor's value."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

import tether
from benchmarks.models import make_method

WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::_unique2")


def within_tether(event):
    while event is not None:
        if event.name.startswith("aten::_fused_"):
            return False  # reads its own counter of steps, which lies where the parameters do
        if event.name.startswith("tether::"):
            return True
        event = event.cpu_parent
    return False


def waits_of_a_step(methods):
    """Names of waiting operations in the second and third step, the first being for set-up."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, 6), torch.arange(32) % 4)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # "log" is what runs on a GPU; "step" would look at each loss
    reg = tether.attach(
        model, methods, optimizer, train_data=data, valid_data=data, epochs=10, nan_check="log"
    )
    batches = reg.batches(DataLoader(data, 8))

    def step():
        x, y = next(batches)
        reg.loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
        step()
    events = profiler.events()
    ranges = {event.name for event in events if event.name.startswith("tether::")}
    assert {"tether::loss", "tether::edit_gradients", "tether::after_step"} <= ranges
    return [event.name for event in events if event.name in WAITS and within_tether(event)]


@pytest.mark.parametrize("name", tether.list_methods())
def test_no_method_waits_for_the_device(name):
    assert waits_of_a_step([make_method(name)]) == []


def test_all_together():
    names = ("adarand", "elr", "regsl", "l2_sp")
    assert waits_of_a_step([make_method(name) for name in names]) == []


def test_a_wait_would_be_found():
    class Reader(tether.L2SP):
        def penalty(self, batch):
            return batch.logits.sum() * float(batch.logits.detach().mean())

    assert "aten::_local_scalar_dense" in waits_of_a_step([Reader()])
