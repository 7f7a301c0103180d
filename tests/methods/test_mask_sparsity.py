from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks import mask_sparsity as benchmark
from tests.methods.noisy_digits import images
from tests.reference import sparse_twins as twins
from tether import MaskSparsity, TetherError, attach
from tether.errors import ConfigError
from tether.functional import gamma_prune_mask, vote_coupled_masks
from tether.methods.weights.prune_masks import inner_norms
from tether.models.cifar_resnet import CifarResNet
from tether.models.pruning import absorb_pruned_bias_, remove_channels, to_pruning_groups


def test_masks_by_threshold_ratio_and_energy() -> None:
    gamma = torch.tensor([0.5, -0.001, 0.2, 0.004, -1.0])
    assert gamma_prune_mask({"a": gamma})["a"].tolist() == [False, True, False, True, False]
    assert int(gamma_prune_mask({"a": gamma}, threshold=0.3)["a"].sum()) == 3
    assert int(gamma_prune_mask({"a": gamma}, ratio=0.7)["a"].sum()) == 3
    assert int(gamma_prune_mask({"a": 0.0001 * gamma}, threshold=0.3)["a"].sum()) == 4
    assert int(gamma_prune_mask({"a": gamma}, threshold=2.0, min_channels=3)["a"].sum()) == 2
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=9) ** 3
        found = gamma_prune_mask({"a": torch.from_numpy(values)}, energy=1e-3)["a"]
        wanted = np.abs(values) <= twins.energy_threshold(values, 1e-3)
        assert found.tolist() == wanted.tolist()
    assert int(gamma_prune_mask({"a": torch.full((4,), 1e-4)}, energy=1e-4)["a"].sum()) == 3
    with pytest.raises(ValueError, match="one of"):
        gamma_prune_mask({"a": gamma}, ratio=0.5, energy=0.1)


def test_tied_layers_vote() -> None:
    for seed in range(20):
        raw = np.random.default_rng(seed).random((3, 8)) < 0.5
        found = vote_coupled_masks({str(i): torch.from_numpy(row) for i, row in enumerate(raw)})
        wanted = twins.voted(raw.tolist())
        assert all(mask.tolist() == wanted for mask in found.values())
    scales = {"a": torch.tensor([0.0, 0.0, 1.0]), "b": torch.tensor([0.0, 1.0, 1.0])}
    tied = gamma_prune_mask(scales, coupled=[("a", "b")])
    assert tied["a"].tolist() == tied["b"].tolist() == [True, False, False]


def test_layers_between_two_kernels_are_found() -> None:
    found = [(norms, kernel) for norms, kernel, _ in inner_norms(CifarResNet(8))]
    assert found == [
        ((f"layer{i}.0.bn1",), f"layer{i}.0.conv2") for i in (1, 2, 3)
    ]  # the stem and what is added to a shortcut are not
    separable = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    assert [n for n, _, _ in inner_norms(separable)] == [("1", "4")]


# -- attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "l2"}, "mode 'l2'"),
        ({"ratio": 0.5, "energy": 0.1}, "one of"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"ratio": 1.0}, "ratio"),
        ({"energy": 0.0}, "energy"),
        ({"threshold": -1.0}, "threshold"),
        ({"min_channels": 0}, "min_channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskSparsity(**options)  # type: ignore[arg-type]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def attached(model: nn.Module, method: MaskSparsity) -> MaskSparsity:
    attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1)).detach()
    return method


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="group_envelope prunes networks without"):
        attached(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), MaskSparsity())
    stem = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    with pytest.raises(TetherError, match=r"include='\*'"):
        attached(stem, MaskSparsity())
    attached(stem, MaskSparsity(include="*"))
    with pytest.raises(TetherError, match="no norm layer is called '7'"):
        attached(net(), MaskSparsity(include=["7"]))
    with pytest.raises(TetherError, match=r"prune_mask names the norm layer '3'"):
        attached(net(), MaskSparsity(prune_mask={"3": [True]}))
    for wrong in ([True], [True] * 64):
        with pytest.raises(TetherError, match=r"mask of '1' must hold 64 entries"):
            attached(net(), MaskSparsity(prune_mask={"1": wrong}))
    with pytest.raises(TetherError, match="cannot be read"):
        attached(net(), MaskSparsity(prune_mask=str(tmp_path / "none.safetensors")))
    still = net()
    still[1].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="'1' are frozen"):
        assert set(attached(still, MaskSparsity()).masks()) == {"4"}
    still[4].weight.requires_grad_(False)
    with pytest.raises(TetherError, match="frozen"):
        attached(still, MaskSparsity())


def step(model: nn.Module, methods: list[MaskSparsity], lr: float = 0.1) -> None:
    """One update without momentum."""
    x, y = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    with attach(model, methods, optimizer):
        nn.functional.cross_entropy(model(x[:64]), y[:64]).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("mode", ["grad", "prox", "smooth_l1"])
def test_one_step_moves_the_masked_scales_and_nothing_else(mode: str, tmp_path: Path) -> None:
    mask = torch.arange(64) % 3 == 0
    path = tmp_path / "mask.safetensors"
    save_file({"1": mask}, path)
    plain, pressed = net(), net()
    with torch.no_grad():
        for model in (plain, pressed):
            model[1].weight[:9].mul_(-0.01)  # small ones, on both sides
    step(plain, [])
    start = net()[1].weight.detach().clone()
    start[:9] *= -0.01
    step(pressed, [MaskSparsity(0.3, mode, prune_mask=str(path))])
    after, before = pressed[1].weight.detach(), plain[1].weight.detach()
    if mode == "prox":
        wanted = before.sign() * (before.abs() - 0.03).clamp(min=0)
    else:
        slope = start.sign()
        if mode == "smooth_l1":
            slope = torch.where(start.abs() < 0.03, start, slope)
        wanted = before - 0.03 * slope
    torch.testing.assert_close(after[mask], wanted[mask])
    for (name, p), (_, q) in zip(pressed.named_parameters(), plain.named_parameters(), strict=True):
        if name == "1.weight":
            assert torch.equal(p[~mask], q[~mask])
        else:
            assert torch.equal(p, q), name


def test_no_mask_and_no_weight_are_plain_training_bit_for_bit() -> None:
    plain = net()
    step(plain, [])
    for method in (MaskSparsity(0.0), MaskSparsity(0.5, threshold=0.0)):
        model = net()
        step(model, [method])
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(p, q)


def train(model: nn.Module, methods: list[MaskSparsity], epochs: int, seed: int) -> None:
    x, y = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    draw = torch.Generator().manual_seed(seed)
    model.train()
    with attach(model, methods, optimizer):
        for _ in range(epochs):
            for rows in torch.randperm(1216, generator=draw).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()


def accuracy(model: nn.Module) -> float:
    x, y = images()
    model.eval()
    return float((model(x[1216:]).argmax(1) == y[1216:]).float().mean())


def test_removal_is_free_after_masked_pressure_and_ruinous_after_global() -> None:
    pytest.importorskip("torch_pruning")
    rows = []
    for seed in range(3):
        baseline = net(seed)
        train(baseline, [], 8, seed)
        cut = copy.deepcopy(baseline)
        method = attached(cut, MaskSparsity(ratio=0.7))
        remove_channels(cut, method.masks(), torch.zeros(2, 64))
        method = MaskSparsity(0.05 * 4, "prox", ratio=0.7)
        train(baseline, [method], 8, seed + 10)
        numbers, before = method.measure(), accuracy(baseline)
        assert numbers["largest_masked"] == 0.0 and numbers["mean_kept"] > 0.7, numbers
        x = images()[0][:9]
        kept = baseline(x).detach()
        removed = remove_channels(baseline, method.masks(), torch.zeros(2, 64))
        torch.testing.assert_close(baseline(x), kept, rtol=1e-4, atol=1e-4)
        assert baseline[0].out_features == baseline[3].in_features == 64 - 44
        assert removed.channels == 88 and removed.flops_share > 0.6
        rows.append((before, accuracy(baseline), accuracy(cut)))
    for before, after, cut in rows:
        assert after == pytest.approx(before) and before > 0.95 and cut < before - 0.1, rows


def test_absorption_matters_where_a_pruned_channel_still_emits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1, bias=False)
    ).eval()
    mask = torch.tensor([True, False, True, False, False, False])
    with torch.no_grad():
        model[1].bias.uniform_(0.5, 1.0)
        model[1].weight[mask] = 0.0
    x = torch.randn(4, 2, 5, 5)
    before = model(x).detach()
    absorb_pruned_bias_(model, {"1": mask})
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert model[3].bias is not None and not model[1].bias[mask].any()


def test_removal_says_what_it_cannot_do() -> None:
    pytest.importorskip("torch_pruning")
    model, x = net().eval(), torch.zeros(2, 64)
    with pytest.raises(ConfigError, match="'2', which is none"):
        to_pruning_groups(model, {"2": torch.tensor([True])}, x)
    with pytest.raises(ConfigError, match="without channels"):
        to_pruning_groups(model, {"1": torch.ones(64, dtype=torch.bool)}, x)


def test_the_inner_channels_of_a_residual_network_go() -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = CifarResNet(20)
    method = attached(model, MaskSparsity(ratio=0.45))
    removed = remove_channels(model, method.masks(), torch.zeros(1, 3, 32, 32))
    assert removed.flops_share > 0.4
    assert model.layer3[0].conv1.out_channels == 64 - 28
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.long
def test_forty_percent_of_a_trained_resnet_go_within_a_point() -> None:
    pytest.importorskip("torch_pruning")
    if not benchmark.there():
        pytest.skip("needs CIFAR-10 and ResNet-20 under TETHER_SHARED")
    found = benchmark.run(0, 5000, 5, 0.45, 2.0, dense_too=False)
    assert found["flops_share"] >= 0.4
    assert found["pruned"] > found["original"] - 0.01
