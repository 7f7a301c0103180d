"""AdaRand's own part as the formulas are written down, to compare speed and numbers with.

A loop over the classes for their means, and all pairs of class means as one K x K x d array
with its graph.
"""

from __future__ import annotations

import torch
from torch import Tensor


class NaiveAdaRand:
    """Prior of K classes with a step of its own.

    Args:
        means: K x d, where mu and its running means start.
        stds: K x d.
        alpha: weight of the old running mean.
        lr: of Adam.
    """

    def __init__(self, means: Tensor, stds: Tensor, alpha: float = 0.5, lr: float = 1e-2) -> None:
        self.mu = means.clone().requires_grad_()
        self.stds = stds
        self.running = means.clone()
        self.alpha = alpha
        self.optimizer = torch.optim.Adam([self.mu], lr=lr)

    def feature_loss(self, features: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Mean squared distance to one draw a sample, ``z = mu + sigma * noise``."""
        targets = []
        for row, label in enumerate(labels.tolist()):
            targets.append(self.mu[label].detach() + self.stds[label] * noise[row])
        return (features - torch.stack(targets)).pow(2).mean()

    def prior_loss(self) -> Tensor:
        """Squared cosines: of each mean to its running mean (to 1), of all pairs (to 0)."""
        count = len(self.mu)
        intra = (torch.cosine_similarity(self.mu, self.running, dim=1) - 1).pow(2).mean()
        pairs = torch.cosine_similarity(self.mu[:, None, :], self.mu[None, :, :], dim=2)
        others = ~torch.eye(count, dtype=torch.bool)
        inter = pairs[others].pow(2).sum() / (count * (count - 1))
        return intra + inter

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Running means of the classes in the batch, then a step on mu."""
        for label in range(len(self.mu)):
            mine = features[labels == label]
            if len(mine):
                mean = mine.mean(dim=0)
                self.running[label] = self.alpha * self.running[label] + (1 - self.alpha) * mean
        self.optimizer.zero_grad()
        self.prior_loss().backward()
        self.optimizer.step()

    @staticmethod
    def bytes_needed(num_classes: int, num_features: int) -> int:
        """A lower bound: products, both factors and their gradients, K x K x d numbers each."""
        return 4 * 4 * num_classes * num_classes * num_features
