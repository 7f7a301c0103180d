"""Layer-wise distances against hand-made sums; batch norm; groups; bitwise harmlessness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tether.measure import layer_distances

ALL = ("fro", "relative", "rms", "mars", "spectral", "weight")


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential()
        net.add_module("conv", nn.Conv2d(3, 4, 3))
        net.add_module("bn", nn.BatchNorm2d(4, eps=1e-3))
        net.add_module("body", nn.Sequential(nn.Conv1d(4, 5, 2), nn.LayerNorm(5)))
        net.add_module("head", nn.Linear(5, 2))
    return net


def moved():
    """A network after some change, with a copy of its start."""
    net = network()
    start = {k: v.clone() for k, v in net.state_dict().items()}
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*net.parameters(), net.bn.running_mean):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=rng))
        net.bn.running_var.mul_(torch.rand(4, generator=rng) + 0.5)
    return net, start


def test_an_untouched_model_has_distance_zero():
    net = network()
    for row in layer_distances(net, net.state_dict(), norms=ALL[:-1]).values():
        assert set(row.values()) == {0.0}


def test_norms_equal_hand_made_ones():
    net, start = moved()
    found = layer_distances(net, start, norms=ALL)
    assert list(found) == ["conv.weight", "bn.weight", "body.0.weight", "head.weight"]
    for name in ("conv.weight", "body.0.weight", "head.weight"):
        w, w0 = (s[name].double().numpy() for s in (net.state_dict(), start))
        t = (w - w0).reshape(len(w), -1)
        row = found[name]
        fro = math.sqrt(sum(v * v for v in t.flatten()))
        assert row["fro"] == pytest.approx(fro)
        assert row["relative"] == pytest.approx(fro / np.linalg.norm(w0))
        assert row["rms"] == pytest.approx(fro / math.sqrt(t.size))
        assert row["mars"] == pytest.approx(max(sum(abs(v) for v in r) for r in t))
        assert row["weight"] == pytest.approx(np.linalg.norm(w))
        top = np.linalg.svd(t, compute_uv=False)[0]
        assert top * 0.95 < row["spectral"] <= top * (1 + 1e-9)


def test_spectral_norm_is_exact_for_a_low_rank_change():
    net = nn.Linear(30, 20)
    start = {k: v.clone().double() for k, v in net.state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    u, v = torch.randn(20, generator=rng).double(), torch.randn(30, generator=rng).double()
    now = dict(start, weight=start["weight"] + torch.outer(u, v))
    row = layer_distances(now, start, norms=("spectral", "fro"))["weight"]
    assert row["spectral"] == pytest.approx(float(u.norm() * v.norm()))
    assert row["spectral"] == pytest.approx(row["fro"])


def test_batch_norm_is_measured_by_its_effective_scale():
    net, start = moved()
    row = layer_distances(net, start)["bn.weight"]
    q = net.bn.weight.detach().double() / (net.bn.running_var.double() + 1e-3).sqrt()
    q0 = start["bn.weight"].double() / (start["bn.running_var"].double() + 1e-3).sqrt()
    change = (q - q0).numpy()
    assert row["channel_max"] == pytest.approx(abs(change).max())
    assert row["channel_rms"] == pytest.approx(math.sqrt((change**2).mean()))
    # scaling gamma with the standard deviation leaves the layer's function, and the measure, alone
    fresh = network()
    base = {k: v.clone() for k, v in fresh.state_dict().items()}
    with torch.no_grad():
        std = (fresh.bn.running_var + 1e-3).sqrt()
        fresh.bn.running_var.mul_(9.0)
        fresh.bn.weight.mul_((fresh.bn.running_var + 1e-3).sqrt() / std)
    assert layer_distances(fresh, base)["bn.weight"]["channel_max"] < 1e-6


def test_groups_join_as_one_vector():
    net, start = moved()
    groups = {"conv.weight": "low", "bn.weight": "low", "body.0.weight": "low"}
    groups |= {"head.weight": "head", "head.bias": "head"}
    single = layer_distances(net, start, norms=ALL)
    joint = layer_distances(net, start, norms=ALL, groups=groups)
    assert list(joint) == ["low", "head"] and joint["head"] == pytest.approx(single["head.weight"])
    a, b = single["conv.weight"], single["body.0.weight"]
    now = net.state_dict()
    names = ("conv.weight", "body.0.weight")
    flat, flat0 = (torch.cat([s[n].double().flatten() for n in names]) for s in (now, start))
    low = joint["low"]
    assert low["fro"] == pytest.approx(float((flat - flat0).norm()))
    assert low["fro"] == pytest.approx(math.hypot(a["fro"], b["fro"]))
    assert low["relative"] == pytest.approx(float((flat - flat0).norm() / flat0.norm()))
    assert low["rms"] == pytest.approx(float((flat - flat0).square().mean().sqrt()))
    assert low["weight"] == pytest.approx(float(flat.norm()))
    assert low["mars"] == max(a["mars"], b["mars"])
    assert low["spectral"] == max(a["spectral"], b["spectral"])
    assert low["channel_rms"] == pytest.approx(single["bn.weight"]["channel_rms"])
    only = layer_distances(net, start, norms=("mars",), groups=groups)
    assert set(only["head"]) == {"mars"}
    two = dict.fromkeys(groups, "all")
    assert layer_distances(net, start, groups=two)["all"]["fro"] == pytest.approx(
        math.sqrt(sum(single[n]["fro"] ** 2 for n in (*names, "head.weight")))
    )


def test_a_new_head_is_measured_from_zero():
    net, start = moved()
    del start["head.weight"], start["head.bias"]
    found = layer_distances(net, start, norms=("fro", "weight", "relative"), from_zero=("head",))
    row = found["head.weight"]
    assert row["fro"] == row["weight"] == pytest.approx(net.head.weight.double().norm().item())
    assert math.isinf(row["relative"])
    groups = {n: n.split(".")[0] for n in found}
    joint = layer_distances(
        net, start, norms=("relative",), groups=groups, from_zero=("head.weight",)
    )
    assert math.isinf(joint["head"]["relative"])


def test_module_and_state_dict_agree_and_nothing_is_changed():
    net, start = moved()
    net.bn.eps = 1e-5
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    kept = {k: v.clone() for k, v in start.items()}
    state = torch.get_rng_state()
    from_module = layer_distances(net, start, norms=ALL)
    assert layer_distances(net.state_dict(), start, norms=ALL) == from_module
    assert torch.equal(torch.get_rng_state(), state) and net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, kept[k]) for k, v in start.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_half_precision_and_tied_weights():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}).bfloat16()
    net["b"].weight = net["a"].weight
    start = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        net["a"].weight.zero_()
    found = layer_distances(net, start, norms=("fro", "relative"))
    assert list(found) == ["a.weight"] and found["a.weight"]["relative"] == 1.0
    assert found["a.weight"]["fro"] == pytest.approx(float(start["a.weight"].double().norm()))


def test_bad_input_gets_one_clear_message():
    net, start = moved()
    with pytest.raises(ValueError, match="norm 'l2' is unknown"):
        layer_distances(net, start, norms=("l2",))
    with pytest.raises(ValueError, match=r"no group for 'conv\.weight'"):
        layer_distances(net, start, groups={"head.weight": "head"})
    with pytest.raises(ValueError, match="from_zero names 'classifier'"):
        layer_distances(net, start, from_zero=("classifier",))
    with pytest.raises(ValueError, match=r"no 'head\.weight': name it in from_zero"):
        layer_distances(net, {k: v for k, v in start.items() if k != "head.weight"})
    with pytest.raises(ValueError, match=r"shape \(2, 5\), its reference \(3, 5\)"):
        layer_distances(net, dict(start, **{"head.weight": torch.zeros(3, 5)}))
    without = {k: v for k, v in start.items() if "running" not in k}
    with pytest.raises(ValueError, match="pass a full state dict"):
        layer_distances(net, without)
