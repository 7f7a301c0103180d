"""The benchmark measures the same thing twice, and its pieces work."""

import math

import pytest
import torch
from torch.utils.data import TensorDataset

import tether
from benchmarks.adarand import SIZES, FeaturesAndHead, naive
from benchmarks.measure import interleaved, paired_ratio, peak_memory, range_times
from benchmarks.models import NUM_CLASSES, Trainer, fitting
from benchmarks.naive_adarand import NaiveAdaRand
from benchmarks.overhead import measure_memory, measure_time, variants
from benchmarks.tables import as_markdown
from tether.methods.features.adarand import AdaRand


def test_naive_adarand_is_adarand():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(40, 12).relu().double(), torch.arange(40) % 5)
    model = FeaturesAndHead(5, 12).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    reg = tether.attach(
        model,
        AdaRand(lr_schedule="constant", sigma_scale=0.0),
        optimizer,
        train_data=data,
    )
    reg.start_epoch()
    prior = reg.methods["adarand"].prior
    slow = NaiveAdaRand(prior.mu.detach(), torch.zeros(5, 12, dtype=prior.mu.dtype))
    for start in (0, 3, 17):
        x, y = data[start : start + 4]
        reg.loss(model(x), y).backward()
        distance = slow.feature_loss(x.to(prior.mu.dtype), y, torch.zeros(4, 12))
        assert float(reg.parts["adarand"]) == pytest.approx(float(distance), rel=1e-5)
        optimizer.step()
        slow.update(x.to(prior.mu.dtype), y)
        torch.testing.assert_close(prior.running_mu, slow.running, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(prior.mu.detach(), slow.mu.detach(), rtol=1e-4, atol=1e-5)


def test_naive_is_left_out_where_it_does_not_fit(monkeypatch):
    monkeypatch.setattr("benchmarks.adarand.available_memory", lambda: 8 << 30)
    assert naive(*SIZES[-1], rounds=1) is None


def test_interleaved_runs_each_once_a_round():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(steps, rounds=4, warmup=2)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    for turn in range(6):
        assert sorted(calls[3 * turn : 3 * turn + 3]) == ["a", "b", "c"]
    assert paired_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_peak_memory_sees_what_was_freed():
    def work():
        torch.ones(16 << 20).sum()  # 64 MiB, gone at the end

    grown = peak_memory(work)
    assert grown is None or 60 < grown < 90


def make_tiny():
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU())
    return torch.nn.Sequential(body, torch.nn.Linear(8, NUM_CLASSES))


def test_a_small_run_fills_every_column(monkeypatch):
    data = TensorDataset(torch.randn(32, 3, 2, 2), torch.arange(32) % NUM_CLASSES)
    monkeypatch.setitem(measure_time.__globals__["MODELS"], "tiny", make_tiny)
    for function in (measure_time, fitting):
        monkeypatch.setitem(function.__globals__, "make_data", lambda *_: data)
    methods = fitting("tiny", tether.list_methods())
    assert len(methods) > 40
    rows = measure_time("tiny", methods, rounds=2)
    memory = measure_memory("tiny", ["l2_sp"])
    assert list(memory) == ["plain loop", "no method", "l2_sp"]
    for row in rows:
        row["peak_mib"] = memory["l2_sp"]
    assert [row["variant"] for row in rows] == list(variants(methods))
    for row in rows:
        assert 0 < row["min_ms"] <= row["median_ms"]
        assert math.isfinite(row["ratio_min"])
        assert ("own_share" in row) == (row["variant"] != "plain loop")
    document = {"machine": {}, "threads": 1, "rounds": 2, "adarand": [], "models": {"tiny": rows}}
    text = as_markdown(document)
    assert all(f"\n| {name} |" in text for name in methods)


def test_ranges_hold_the_methods_own_part():
    data = TensorDataset(torch.randn(32, 3, 2, 2), torch.arange(32) % NUM_CLASSES)
    ranges = range_times(Trainer(make_tiny, data, "l2_sp").step, steps=2)
    assert set(ranges) == {"tether::loss", "tether::edit_gradients", "tether::after_step"}
    assert all(value > 0 for value in ranges.values())
