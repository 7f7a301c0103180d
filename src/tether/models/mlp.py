"""Small networks on rows of numbers, such as the features of a frozen encoder."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MultilayerPerceptron(nn.Module):
    """Linear layers with rectifiers between them, and a linear head.

    Args:
        inputs: width of a row.
        outputs: numbers that the head gives.
        layers: linear layers, the head among them, at least 1; one is a linear probe.
        hidden: width of the layers below the head.
        dropout: share of the features that is dropped before the head, in training.

    Shape: ``[N, inputs] -> [N, outputs]``.

    Example:
        >>> import torch
        >>> MultilayerPerceptron(384, 6, layers=3, hidden=128)(torch.zeros(2, 384)).shape
        torch.Size([2, 6])
    """

    def __init__(
        self, inputs: int, outputs: int, *, layers: int = 3, hidden: int = 256,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [inputs] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of rows."""
        for layer in self.layers:
            x = layer(x).relu()
        logits: Tensor = self.head(self.dropout(x))
        return logits
