"""ELR+: two networks teach each other which labels to doubt, and name those that are wrong.

One method, ``ELRPlus``, brings the second network, the weight averages and mixup (Liu et al.,
NeurIPS 2020, arXiv:2007.00151) into an ordinary loop. The data are scikit-learn's digits with
40 % wrong labels. It takes some seconds on a CPU:

    python examples/elr_plus.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tether import ELRPlus, attach

NUM_CLASSES = 10


def noisy_digits(rate: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """1000 training images, given and true labels, test images and labels."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    x = torch.from_numpy(digits.data[order] / 16.0).float()
    y = torch.from_numpy(digits.target[order]).long()
    wrong = torch.from_numpy(rng.random(1000) < rate)
    shift = torch.from_numpy(rng.integers(1, NUM_CLASSES, 1000))
    given = torch.where(wrong, (y[:1000] + shift) % NUM_CLASSES, y[:1000])
    return x[:1000], given, y[:1000], x[1000:], y[1000:]


def accuracy(networks: list[nn.Module], x: Tensor, y: Tensor) -> float:
    """Of the mean of both networks' logits."""
    with torch.no_grad():
        logits = torch.stack([network.eval()(x) for network in networks]).mean(dim=0)
    for network in networks:
        network.train()
    return float((logits.argmax(dim=1) == y).float().mean())


def main() -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong labels")
    parser.add_argument("--weight", type=float, default=3.0, help="lambda")
    parser.add_argument("--beta", type=float, default=0.7)
    parser.add_argument("--decay", type=float, default=0.97, help="of the weight averages")
    parser.add_argument("--alpha", type=float, default=1.0, help="of mixup's Beta distribution")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    x, given, true, test_x, test_y = noisy_digits(args.noise, args.seed)
    train_data = TensorDataset(x, given)
    torch.manual_seed(args.seed)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, NUM_CLASSES)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    elr = ELRPlus(
        weight=args.weight,
        beta=args.beta,
        alpha=args.alpha,
        ema_decay=args.decay,
        second="all",  # from random weights the two begin apart in every layer
    )
    reg = attach(model, elr, optimizer, train_data=train_data, epochs=args.epochs, seed=args.seed)
    loader = DataLoader(train_data, args.batch_size, shuffle=True)
    for epoch in range(args.epochs):
        for inputs, labels in reg.batches(loader):
            loss = reg.loss(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if (epoch + 1) % 10 == 0:
            found = accuracy([model, elr.second_network], test_x, test_y)
            print(f"epoch {epoch + 1}: test accuracy {found:.3f}")

    suspects, wrong = elr.noisy_label_mask(), given != true
    result = {
        "test_accuracy": accuracy([model, elr.second_network], test_x, test_y),
        "suspects": float(suspects.sum()),
        "suspects_that_are_wrong": float(wrong[suspects].float().mean()),
        "wrong_labels_found": float(suspects[wrong].float().mean()),
    }
    for name, value in result.items():
        print(f"{name.replace('_', ' ')}: {value:.3f}")
    reg.finish()
    return result


if __name__ == "__main__":
    main()
