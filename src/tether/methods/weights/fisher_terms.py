"""Log-likelihoods of one sample, whose squared gradients a Fisher diagonal is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Log-likelihoods of one sample and the weights of their squared gradients.
Terms = Sequence[tuple[Tensor, float]]


def one_class_terms(
    logits: Tensor, labels: str, label: Tensor | None, generator: torch.Generator | None = None
) -> Terms:
    """``log p_k`` with the probability of the label k: all of them, a drawn one, the given one."""
    logs = logits.log_softmax(-1)
    if labels == "data" and label is not None:
        return [(logs[int(label)], 1.0)]
    probs = logs.detach().exp()
    if labels == "sampled":
        return [(logs[int(torch.multinomial(probs, 1, generator=generator))], 1.0)]
    return list(zip(logs, probs.tolist(), strict=True))


def decision_terms(
    logits: Tensor, labels: str, label: Tensor | None, generator: torch.Generator | None = None
) -> Terms:
    """The same where each output is a decision: they are independent, so that the exact
    expectation is ``sum_k p_k (1 - p_k) (d z_k)^2``."""
    probs = logits.detach().sigmoid()
    if labels == "model":
        return list(zip(logits, (probs * (1.0 - probs)).tolist(), strict=True))
    if labels == "data" and label is not None:
        told = label.to(logits) if label.ndim else F.one_hot(label, len(logits)).to(logits)
    else:
        told = torch.bernoulli(probs, generator=generator)
    return [(-F.binary_cross_entropy_with_logits(logits, told, reduction="sum"), 1.0)]


def add_squares_(totals: Sequence[Tensor], terms: Terms, params: Sequence[Tensor]) -> None:
    """Add the weighted squares of the gradients of some log-likelihoods."""
    for i, (value, weight) in enumerate(terms):
        grads = torch.autograd.grad(
            value, params, retain_graph=i + 1 < len(terms), allow_unused=True
        )
        for total, grad in zip(totals, grads, strict=True):
            if grad is not None:
                total.addcmul_(grad, grad, value=weight)
