"""Diagonal Fisher information of a pretrained model: estimated from data, read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.engine.reference import canonical
from tether.errors import TetherError

LABELS = ("model", "sampled")


def diagonal_fisher(
    model: nn.Module,
    data: Iterable[Any],
    *,
    num_samples: int | None = None,
    labels: str = "model",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Diagonal Fisher information of every trainable parameter, from the model's own labels.

    ``F_j = 1/m sum_x sum_k p_k(x) (d log p_k(x) / d w_j)^2``: the expectation over the labels
    that the model itself gives, in evaluation mode, never over the labels of the data. Run it on
    the PRETRAINED model with its own head and source samples (or a proxy), before fine-tuning.

    Args:
        model: a classifier; its train flags are put back.
        data: batches: a tensor, a tuple whose first entry is the input, or a dict of the model's
            keyword arguments (``labels`` is left out).
        num_samples: stop after so many samples; None takes all.
        labels: ``"model"``, the exact expectation, one backward a sample and class; or
            ``"sampled"``, one label drawn for each sample, one backward a sample.
        generator: random numbers of ``"sampled"``.

    Returns:
        Canonical parameter name -> float tensor of the parameter's shape; keep it with
        ``safetensors.torch.save_file`` and give the path to ``L2SP(fisher=...)``.

    Raises:
        ValueError: an unknown ``labels``, or no sample at all.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> fisher = diagonal_fisher(model, [torch.ones(3, 2)])
        >>> bool((fisher["bias"] > 0).all())
        True
    """
    if labels not in LABELS:
        raise ValueError(f"labels {labels!r} is not one of {', '.join(LABELS)}")
    named = {canonical(n): p for n, p in model.named_parameters() if p.requires_grad}
    params = list(named.values())
    totals = [
        torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in params
    ]
    flags = {module: module.training for module in model.modules()}
    count = 0
    model.eval()
    try:
        for args, kwargs in _samples(data):
            if num_samples is not None and count >= num_samples:
                break
            count += 1
            with torch.enable_grad():
                log_probs = _log_probs(model(*args, **kwargs))
            probs = log_probs.detach().exp()
            if labels == "sampled":
                drawn = [int(torch.multinomial(probs, 1, generator=generator))]
                weights = [1.0]
            else:
                drawn, weights = list(range(len(probs))), probs.tolist()
            for i, (label, weight) in enumerate(zip(drawn, weights, strict=True)):
                grads = torch.autograd.grad(
                    log_probs[label], params, retain_graph=i + 1 < len(drawn), allow_unused=True
                )
                for total, grad in zip(totals, grads, strict=True):
                    if grad is not None:
                        total.addcmul_(grad, grad, value=weight)
    finally:
        for module, training in flags.items():
            module.training = training
    if not count:
        raise ValueError("diagonal_fisher: the data held no sample")
    return {name: total / count for name, total in zip(named, totals, strict=True)}


def load_fisher(fisher: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    """The diagonal itself, or what a safetensors file holds."""
    if isinstance(fisher, Mapping):
        return fisher
    from safetensors.torch import load_file

    return load_file(fisher)


def fisher_of(fisher: Mapping[str, Tensor], name: str, param: Tensor, who: str) -> Tensor:
    """The entry of one parameter, checked, on the parameter's device."""
    found = fisher.get(name)
    if found is None:
        raise TetherError(
            f"{who}: the Fisher diagonal has no entry {name!r}; compute it on the same "
            "architecture with diagonal_fisher, or freeze that parameter"
        )
    if found.shape != param.shape:
        raise TetherError(
            f"{who}: the Fisher diagonal of {name!r} has shape {tuple(found.shape)}, the "
            f"parameter {tuple(param.shape)}"
        )
    return found.to(param.device)


def _samples(data: Iterable[Any]) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every sample as arguments of the model's call, in a batch of one."""
    for batch in data:
        if isinstance(batch, Mapping):
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            size = len(next(iter(inputs.values())))
            for i in range(size):
                yield (), {key: value[i : i + 1] for key, value in inputs.items()}
        else:
            rows = batch[0] if isinstance(batch, (tuple, list)) else batch
            for i in range(len(rows)):
                yield (rows[i : i + 1],), {}


def _log_probs(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else output.logits
    return torch.log_softmax(logits[0].float() if logits.dtype != torch.float64 else logits[0], -1)
