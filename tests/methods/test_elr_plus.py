from __future__ import annotations

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.reference import teaching_twins as twins
from tether import ELRPlus, TetherError, attach, create_method
from tether.methods.targets.elr_ramps import average_decay, ramp, refined_targets


def test_ramps_agree_with_their_twin() -> None:
    for decay, steps in ((0.997, 0), (0.9, 7)):
        for step in range(12):
            found = average_decay(step, decay, steps)
            assert found == pytest.approx(twins.average_decay(step, decay, steps))
    assert ramp(3, 0) == ramp(9, 9) == 1.0 and ramp(0, 10) == pytest.approx(np.exp(-5))


def test_refined_targets_stay_probabilities() -> None:
    draw = torch.Generator().manual_seed(0)
    y, t = (torch.rand(6, 4, generator=draw) for _ in range(2))
    torch.testing.assert_close(refined_targets(y, t).sum(1), torch.ones(6))
    assert torch.equal(refined_targets(y, torch.zeros(6, 4)), y)


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3


def make(method: ELRPlus):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    reg = attach(net, method, optimizer, train_data=TensorDataset(X, Y), epochs=2)
    loader = DataLoader(TensorDataset(X, Y), 6, shuffle=True)
    return net, optimizer, reg, loader


def mixed(values: np.ndarray, permutation: list[int], lam: list[float]) -> np.ndarray:
    pairs = enumerate(zip(permutation, lam, strict=True))
    return np.array(
        [share * values[i] + (1 - share) * values[other] for i, (other, share) in pairs]
    )


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_every_step_agrees_with_its_twin(refine: bool, alpha: float) -> None:
    method = ELRPlus(
        weight=2.0, beta=0.6, alpha=alpha, ema_decay=0.5, ramp_steps=3, refine_targets=refine,
        second="all",
    )  # fmt: skip
    net, optimizer, reg, loader = make(method)
    tables = [np.zeros((12, 3)), np.zeros((12, 3))]
    averages = [copy.deepcopy(net).eval(), copy.deepcopy(method.second_network).eval()]
    for _ in range(2):
        for x, y in reg.batches(loader):
            index = reg.stream.rows.tolist()
            mix = reg.maker._carried.get("mix")
            permutation = list(range(6)) if mix is None else mix.permutation.tolist()
            lam = [1.0] * 6 if mix is None else mix.lam.tolist()
            assert min(lam) >= 0.5 and (alpha > 0) == (min(lam) < 1)
            own, hot = X[index], np.eye(3)[Y[index].numpy()]
            np.testing.assert_allclose(x.numpy(), mixed(own.numpy(), permutation, lam), atol=1e-7)
            targets = mixed(hot, permutation, lam)
            losses, pulls = 0.0, 0.0
            for k, trained in enumerate((net, method.second_network)):
                with torch.no_grad():
                    logits = copy.deepcopy(trained).train()(x).numpy()
                    told = averages[1 - k](own).numpy()
                found = twins.elr_plus_step(
                    logits, told, tables[k], index, targets, permutation, lam, 0.6, refine
                )
                losses, pulls, tables[k] = losses + found[0], pulls + found[1], found[2]
            step = reg.step
            reg.loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            assert float(reg.parts["task"]) == pytest.approx(losses, abs=1e-6)
            wanted = 2.0 * ramp(step, 3) * pulls
            assert float(reg.parts["elr_plus"]) == pytest.approx(wanted, abs=1e-6)
            for found, table in zip(
                (method.running_targets, method.second_targets), tables, strict=True
            ):
                np.testing.assert_allclose(found.numpy(), table, atol=1e-6)
            for k, trained in enumerate((net, method.second_network)):
                decay = twins.average_decay(step, 0.5, 0)
                with torch.no_grad():
                    for a, p in zip(averages[k].parameters(), trained.parameters(), strict=True):
                        a.mul_(decay).add_(p, alpha=1 - decay)
                    for a, b in zip(averages[k].buffers(), trained.buffers(), strict=True):
                        a.copy_(b)
                for a, p in zip(
                    method.averages[k].parameters(), averages[k].parameters(), strict=True
                ):
                    torch.testing.assert_close(a, p)


def test_bad_options_and_recipes_are_refused() -> None:
    bad = (
        {"weight": -1.0}, {"beta": 1.0}, {"alpha": -0.1}, {"ema_decay": 1.0}, {"ramp_steps": -1},
        {"ema_ramp_steps": -1}, {"second": "tail"},
    )  # fmt: skip
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            ELRPlus(**options)  # type: ignore[arg-type]
    for rival in ("elr", "co_teaching", "elr_plus", "mixup"):
        with pytest.raises(TetherError, match="cannot be combined"):
            attach(nn.Linear(4, 3), [ELRPlus(), create_method(rival)], epochs=1)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)],
)
def test_the_example_finds_the_wrong_labels(
    seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    script = Path(__file__).parents[2] / "examples" / "elr_plus.py"
    monkeypatch.setattr("sys.argv", [str(script), "--epochs", "15", "--seed", str(seed)])
    result = runpy.run_path(str(script))["main"]()
    assert result["test_accuracy"] > 0.88
    assert result["suspects_that_are_wrong"] > 0.9
    assert result["wrong_labels_found"] > 0.8
    assert "test accuracy" in capsys.readouterr().out
