from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from tests.reference import target_twins as twins
from tether import ClassWeights, LabelSmoothing, SelfLabelCorrection, TetherError, attach
from tether.methods.targets.class_weights import balanced_weights, class_counts

N, D, K = 12, 5, 4
TRAIN = [0] * 20 + [1] * 5 + [3] * 10 + [-100] * 3  # no sample of class 2


def task():
    draw = torch.Generator().manual_seed(3)
    model = nn.Linear(D, K).double()
    x = torch.randn(N, D, generator=draw, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3] * 3)
    train = TensorDataset(torch.zeros(len(TRAIN), D), torch.tensor(TRAIN))
    return model, x, y, train


def ours(methods, y=None, **options):
    model, x, given, train = task()
    options.setdefault("train_data", train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    reg = attach(model, methods, optimizer, **options)
    loss = reg.loss(model(x), given if y is None else y)
    return loss, model(x).detach(), reg


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", ["balanced", [2.0, 5.0, 1.0, 0.5]])
def test_the_loss_is_that_of_its_twin(weights, normalize: bool) -> None:
    loss, logits, _ = ours(ClassWeights(weights, normalize))
    counted = [y for y in TRAIN if y >= 0]
    given = twins.balanced(counted, K) if weights == "balanced" else np.array(weights)
    labels = [0, 1, 2, 3] * 3
    twin = twins.class_weighted(logits.numpy(), labels, given, counted, normalize)
    assert abs(float(loss.detach()) - twin) < 1e-6


def test_counts_and_weights_by_hand() -> None:
    counts = class_counts(torch.tensor(TRAIN), K)
    assert counts.tolist() == [20, 5, 0, 10]
    weights = balanced_weights(counts)
    torch.testing.assert_close(weights, torch.tensor([35 / 60, 35 / 15, 1, 35 / 30]).double())
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)
    soft = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert class_counts(soft, 2).tolist() == [1.5, 0.5]


def test_the_mean_weight_over_the_training_set_is_one() -> None:
    method = ClassWeights([7.0, 1.0, 2.0, 4.0])
    ours(method)
    weights, labels = method.class_weights, torch.tensor([y for y in TRAIN if y >= 0])
    assert float(weights[labels].mean()) == pytest.approx(1.0)
    torch.testing.assert_close(weights / weights[1], torch.tensor([7.0, 1.0, 2.0, 4.0]))
    assert method.measure() == {"class_weights": weights.tolist()}


def test_probabilities_weigh_as_expected_and_rows_without_a_label_not_at_all() -> None:
    soft = torch.softmax(torch.randn(N, K, dtype=torch.float64), 1)
    method = ClassWeights([2.0, 1.0, 1.0, 0.5], normalize=False)
    loss, logits, _ = ours(method, soft)
    weights = soft @ method.class_weights.double()
    each = F.cross_entropy(logits, soft, reduction="none")
    torch.testing.assert_close(loss, (weights * each).mean(), rtol=0, atol=1e-12)
    y = torch.tensor([0, 1, 2, -100] * 3)
    loss, logits, _ = ours(ClassWeights([2.0, 1.0, 1.0, 0.5], normalize=False), y)
    keep = y >= 0
    each = F.cross_entropy(logits[keep], y[keep], reduction="none")
    wanted = (method.class_weights.double()[y[keep]] * each).mean()
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)


def test_none_changes_no_bit() -> None:
    loss, logits, _ = ours(ClassWeights())
    assert torch.equal(loss.detach(), F.cross_entropy(logits, torch.tensor([0, 1, 2, 3] * 3)))


def test_it_weighs_by_corrected_and_smoothed_labels() -> None:
    model, x, y, _ = task()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    method = ClassWeights([2.0, 1.0, 1.0, 0.5], normalize=False)
    recipe = [LabelSmoothing(0.2), method, SelfLabelCorrection(threshold=0.9, start_epoch=1)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with attach(model, recipe, optimizer, train_data=TensorDataset(x, y)) as reg:
        reg.start_epoch()
        loss = reg.loss(model(x), y, index=torch.arange(N))
    smooth = torch.full((K,), 0.05, dtype=torch.float64)
    smooth[1] = 0.85
    weight = float((smooth * method.class_weights).sum())
    wanted = F.cross_entropy(model(x), torch.full((N,), 1), label_smoothing=0.2) * weight
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-9)


def test_labels_are_read_without_inputs() -> None:
    class Images(Dataset):
        targets = TRAIN

        def __len__(self) -> int:
            return len(TRAIN)

        def __getitem__(self, row: int):
            raise AssertionError("an input was read")

    method = ClassWeights("balanced")
    ours(method, train_data=Images())
    assert method.class_weights.tolist() == pytest.approx([35 / 60, 35 / 15, 1, 35 / 30])


def test_weights_are_saved() -> None:
    _, _, reg = ours(ClassWeights("balanced"))
    assert reg.state_dict()["methods"]["class_weights"]["class_weights"].shape == (K,)


@pytest.mark.parametrize("weights", ["even", [1.0, -1.0], [1.0, float("inf")]])
def test_bad_options(weights) -> None:
    with pytest.raises(ValueError, match="weights"):
        ClassWeights(weights)


def test_refusals() -> None:
    with pytest.raises(TetherError, match="3 weights, labels up to 3, and 4 classes"):
        ours(ClassWeights([1.0, 2.0, 3.0]))
    with pytest.raises(TetherError, match="weigh 0"):
        ours(ClassWeights([0.0, 0.0, 1.0, 0.0]))
    with pytest.raises(TetherError, match="class_weights.*train_data"):
        ours(ClassWeights("balanced"), train_data=None)
    with pytest.raises(TetherError, match="works with the loss cross_entropy"):
        ours(ClassWeights("balanced"), loss="binary_cross_entropy")


def test_a_rare_class_is_found_again() -> None:
    """King and Zeng: with few events, an unweighted fit puts the boundary where it finds none."""
    rng = np.random.default_rng(1)

    def draw(sizes):
        y = np.repeat([0, 1], sizes)
        x = rng.normal(size=(len(y), 2)) + np.outer(y, [1.2, 0.0])
        return torch.from_numpy(x), torch.from_numpy(y)

    x, y = draw([380, 20])
    test_x, test_y = draw([300, 300])
    recalls = {}
    for weights in (None, "balanced"):
        torch.manual_seed(0)
        net = nn.Linear(2, 2).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        with attach(net, ClassWeights(weights), optimizer, train_data=TensorDataset(x, y)) as reg:
            for _ in range(200):
                reg.loss(net(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            right = net(test_x).argmax(1) == test_y
        recalls[weights] = [float(right[test_y == k].double().mean()) for k in (0, 1)]
    assert recalls[None][1] < 0.3
    assert recalls["balanced"][1] > 0.6
    assert sum(recalls["balanced"]) > sum(recalls[None]) + 0.2
