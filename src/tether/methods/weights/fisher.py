"""Diagonal Fisher information of a pretrained model: estimated from data, read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.engine.reference import canonical
from tether.errors import TetherError
from tether.methods.weights.fisher_terms import add_squares_, decision_terms, one_class_terms

LABELS = ("model", "sampled", "data")
LIKELIHOODS = ("softmax", "sigmoid")


def diagonal_fisher(
    model: nn.Module,
    data: Iterable[Any],
    *,
    num_samples: int | None = None,
    labels: str = "model",
    generator: torch.Generator | None = None,
    likelihood: str = "softmax",
    classes: Sequence[int] | None = None,
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
            ``"sampled"``, one label drawn for each sample, one backward a sample; or ``"data"``,
            the labels that came with the samples: the empirical Fisher, which is none where the
            model is wrong, and which much code for continual learning uses.
        generator: random numbers of ``"sampled"``.
        likelihood: ``"softmax"``, one class a sample; or ``"sigmoid"``, each output a decision of
            its own.
        classes: the outputs that count, where a head has some for tasks to come; None: all.

    Returns:
        Canonical parameter name -> float tensor of the parameter's shape; keep it with
        ``safetensors.torch.save_file`` and give the path to ``L2SP(fisher=...)``.

    Raises:
        ValueError: an unknown ``labels`` or ``likelihood``, no labels, or no sample at all.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> fisher = diagonal_fisher(model, [torch.ones(3, 2)])
        >>> bool((fisher["bias"] > 0).all())
        True
    """
    if labels not in LABELS:
        raise ValueError(f"labels {labels!r} is not one of {', '.join(LABELS)}")
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood {likelihood!r} is not one of {', '.join(LIKELIHOODS)}")
    named = {canonical(n): p for n, p in model.named_parameters() if p.requires_grad}
    params = list(named.values())
    totals = [
        torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in params
    ]
    flags = {module: module.training for module in model.modules()}
    count = 0
    model.eval()
    try:
        for args, kwargs, label in _samples(data):
            if num_samples is not None and count >= num_samples:
                break
            if label is None and labels == "data":
                raise ValueError("labels='data': the batches hold no labels")
            count += 1
            with torch.enable_grad():
                logits = _logits(model(*args, **kwargs))
                if classes is not None:
                    logits, label = logits[list(classes)], _among(label, classes)
                terms = (
                    one_class_terms(logits, labels, label, generator)
                    if likelihood == "softmax"
                    else decision_terms(logits, labels, label, generator)
                )
            add_squares_(totals, terms, params)
    finally:
        for module, training in flags.items():
            module.training = training
    if not count:
        raise ValueError("diagonal_fisher: the data held no sample")
    return {name: total / count for name, total in zip(named, totals, strict=True)}


# -- diagonals that are there already --------------------------------------------------------------


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


def _samples(
    data: Iterable[Any],
) -> Iterable[tuple[tuple[Any, ...], dict[str, Any], Tensor | None]]:
    """Every sample as arguments of the model's call, in a batch of one, and its label."""
    for batch in data:
        if isinstance(batch, Mapping):
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            told = batch.get("labels")
            for i in range(len(next(iter(inputs.values())))):
                one = {key: value[i : i + 1] for key, value in inputs.items()}
                yield (), one, None if told is None else torch.as_tensor(told[i])
        else:
            several = isinstance(batch, (tuple, list))
            rows = batch[0] if several else batch
            told = batch[-1] if several and len(batch) > 1 else None
            for i in range(len(rows)):
                yield (rows[i : i + 1],), {}, None if told is None else torch.as_tensor(told[i])


def _among(label: Tensor | None, classes: Sequence[int]) -> Tensor | None:
    """A label, told by its place among the classes that count."""
    if label is None or label.ndim:
        return label if label is None else label[list(classes)]
    return torch.tensor(list(classes).index(int(label)))


def _logits(output: Any) -> Tensor:
    """Logits of the one sample, in float32 or wider."""
    logits = output if isinstance(output, Tensor) else output.logits
    row: Tensor = logits[0]
    return row if row.dtype == torch.float64 else row.float()
