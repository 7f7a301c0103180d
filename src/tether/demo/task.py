"""A small network pretrained on digits, and target tasks to fine-tune it on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from tether.noise import NoisyLabels, symmetric_noise

NUM_CLASSES = 10
NUM_SOURCE = 900


class DigitNetwork(nn.Module):
    """Three linear layers, 64-256-64-10, with rectifiers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Linear(64, 256)
        self.layer2 = nn.Linear(256, 64)
        self.head = nn.Linear(64, NUM_CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, ``[N, 64]``."""
        features: Tensor = self.layer2(self.layer1(x).relu()).relu()
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 10]`` of flat images ``[N, 64]``."""
        logits: Tensor = self.head(self.features(x))
        return logits


@dataclass(frozen=True)
class Task:
    """Few labelled samples to fine-tune on, and clean ones to test on.

    Attributes:
        pretrained: the network after the source task, under a new head.
        train: inputs with the labels as given.
        noisy: given and true labels of ``train``.
        test: inputs with true labels.
    """

    pretrained: DigitNetwork
    train: TensorDataset
    noisy: NoisyLabels
    test: TensorDataset


@lru_cache(maxsize=2)  # the methods of a seed follow each other
def noisy_task(seed: int, *, size: int = 400, rate: float = 0.4) -> Task:
    """Many labels are wrong: a share ``rate`` is drawn anew, a tenth of which by chance right."""
    return _target_task(seed, size, rate)


@lru_cache(maxsize=2)
def few_shot_task(seed: int, *, per_class: int = 10) -> Task:
    """All labels are right, and there are ``per_class`` of each class."""
    return _target_task(seed, per_class * NUM_CLASSES, rate=0.0, balanced=True)


def _target_task(seed: int, size: int, rate: float, *, balanced: bool = False) -> Task:
    """Everything in it depends on the seed: split, pretraining, head, and wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = _digits()
    order = torch.randperm(len(labels), generator=generator)
    source, target = order[:NUM_SOURCE], order[NUM_SOURCE:]
    network = _pretrain(images[source].flatten(1), labels[source], generator)
    _forget_head(network, generator)

    # The target task shows the same digits in another way: shifted by a column and transposed.
    inputs, labels = images[target].roll(1, dims=2).transpose(1, 2).flatten(1), labels[target]
    chosen = _first_of_each_class(labels, size // NUM_CLASSES) if balanced else _first(labels, size)
    noisy = symmetric_noise(
        labels[chosen], rate, num_classes=NUM_CLASSES, include_true=True, generator=generator
    )
    return Task(
        pretrained=network,
        train=TensorDataset(inputs[chosen], noisy.labels),
        noisy=noisy,
        test=TensorDataset(inputs[~chosen], labels[~chosen]),
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels in [0, 1], shipped with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32) / 16, torch.tensor(bunch.target)


def _pretrain(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> DigitNetwork:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        network = DigitNetwork()
    data = TensorDataset(inputs, labels)
    batches = BatchSampler(RandomSampler(data, generator=generator), 32, drop_last=False)
    # a batch is taken out of the tensors at once, not sample by sample
    loader = DataLoader(data, batch_size=None, sampler=batches, generator=generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(30):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


def _forget_head(network: DigitNetwork, generator: torch.Generator) -> None:
    """A new head: weights N(0, 0.01²), bias zero."""
    with torch.no_grad():
        network.head.weight.normal_(0.0, 0.01, generator=generator)
        network.head.bias.zero_()


def _first(labels: Tensor, count: int) -> Tensor:
    return torch.arange(len(labels)) < count


def _first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Mask of the first ``count`` samples of every class."""
    mine = nn.functional.one_hot(labels, NUM_CLASSES)
    place = (mine.cumsum(0) * mine).sum(1)
    return place <= count
