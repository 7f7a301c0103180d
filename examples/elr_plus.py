"""ELR+: two networks teach each other which labels to doubt.

Early-Learning Regularization with the three additions of the paper (Liu et al., NeurIPS 2020,
arXiv:2007.00151): mixup, a weight average of each network, and targets that come from the weight
average of the *other* network on inputs that are not mixed. The data are scikit-learn's digits
with 40 % wrong labels. It takes some seconds on a CPU:

    python examples/elr_plus.py
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

from tether import EarlyLearningRegularization, Handle, attach

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


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, NUM_CLASSES)
    )


class Learner:
    """A network, the average of its weights, and the handle that regularises it."""

    def __init__(self, seed: int, train_data: TensorDataset, args: argparse.Namespace) -> None:
        self.net = network(seed)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        # Parameters are averaged, the statistics of batch norms are copied.
        self.average = AveragedModel(self.net, avg_fn=self._decay)
        self.average.eval()
        self.max_decay = args.decay
        steps = args.ramp_epochs * math.ceil(len(train_data) / args.batch_size)
        total = args.epochs * math.ceil(len(train_data) / args.batch_size)

        def weight(progress: float) -> float:
            """lambda, rising over the first epochs: ``exp(-5 (1 - step / steps)^2)``."""
            left = 1.0 - min(progress * total, steps) / steps if steps else 0.0
            return args.weight * math.exp(-5.0 * left**2)

        self.elr = EarlyLearningRegularization(weight=weight, beta=args.beta)
        self.reg: Handle = attach(
            self.net, self.elr, self.optimizer, train_data=train_data, total_steps=total
        )

    def _decay(self, average: Tensor, present: Tensor, count: Tensor | int) -> Tensor:
        decay = min(1.0 - 1.0 / (int(count) + 1.0), self.max_decay)
        return decay * average + (1.0 - decay) * present

    def step(self, x: Tensor, y: Tensor, rows: Tensor, other: Learner, alpha: float) -> None:
        lam = float(np.random.beta(alpha, alpha))
        lam = max(lam, 1.0 - lam)
        permutation = torch.randperm(len(x))
        one_hot = nn.functional.one_hot(y, NUM_CLASSES).float()
        mixed_x = lam * x + (1.0 - lam) * x[permutation]
        mixed_y = lam * one_hot + (1.0 - lam) * one_hot[permutation]
        with torch.no_grad():
            target_probs = other.average(x).softmax(dim=1)
        loss = self.reg.loss(
            self.net(mixed_x),
            mixed_y,
            index=rows,
            target_probs=target_probs,  # feeds the table of running targets
            mix=(permutation, lam),  # mixes the table's rows as the inputs were mixed
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.net)
        for kept, present in zip(self.average.module.buffers(), self.net.buffers(), strict=True):
            kept.copy_(present)


def accuracy(learners: list[Learner], x: Tensor, y: Tensor) -> float:
    """Of the mean of both networks' logits."""
    for learner in learners:
        learner.net.eval()
    with torch.no_grad():
        logits = torch.stack([learner.net(x) for learner in learners]).mean(dim=0)
    for learner in learners:
        learner.net.train()
    return float((logits.argmax(dim=1) == y).float().mean())


def main() -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong labels")
    parser.add_argument("--weight", type=float, default=3.0, help="lambda")
    parser.add_argument("--beta", type=float, default=0.7)
    parser.add_argument("--decay", type=float, default=0.97, help="of the weight averages")
    parser.add_argument("--ramp-epochs", type=int, default=0, help="epochs until lambda is whole")
    parser.add_argument("--alpha", type=float, default=1.0, help="of mixup's Beta distribution")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    np.random.seed(args.seed)
    x, given, true, test_x, test_y = noisy_digits(args.noise, args.seed)
    train_data = TensorDataset(x, given)
    first, second = (Learner(args.seed + k, train_data, args) for k in (0, 1))
    for epoch in range(args.epochs):
        for learner, other in ((first, second), (second, first)):
            for rows in torch.randperm(len(x)).split(args.batch_size):
                learner.step(x[rows], given[rows], rows, other, args.alpha)
        if (epoch + 1) % 10 == 0:
            print(
                f"epoch {epoch + 1}: test accuracy {accuracy([first, second], test_x, test_y):.3f}"
            )

    suspects = first.elr.noisy_label_mask() & second.elr.noisy_label_mask()
    wrong = given != true
    result = {
        "test_accuracy": accuracy([first, second], test_x, test_y),
        "suspects": float(suspects.sum()),
        "suspects_that_are_wrong": float(wrong[suspects].float().mean()),
        "wrong_labels_found": float(suspects[wrong].float().mean()),
    }
    for name, value in result.items():
        print(f"{name.replace('_', ' ')}: {value:.3f}")
    for learner in (first, second):
        learner.reg.finish()
    return result


if __name__ == "__main__":
    main()
