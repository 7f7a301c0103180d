"""The methods of each task of a sequence: what they are told, and what is carried to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.method import Method
from tether.methods.weights.ewc_fisher import accumulate_fisher, spread
from tether.methods.weights.fisher import diagonal_fisher

#: What ``fisher=`` of a method is called by :func:`~tether.functional.diagonal_fisher`.
_LABELS = {"true": "sampled", "empirical": "data"}


@dataclass(frozen=True)
class Memory:
    """What a task knows of those before it; none of their data.

    Attributes:
        old_classes: outputs of the classes of earlier tasks.
        new_classes: outputs of this task's classes.
        first: whether it is the first task.
        information: the accumulated Fisher diagonal, or its file; None where nothing asks for it.
    """

    old_classes: Sequence[int]
    new_classes: Sequence[int]
    first: bool
    information: Mapping[str, Tensor] | str | Path | None = None


def methods_of_task(methods: Iterable[Method], memory: Memory) -> list[Method]:
    """New method objects for a task: options that were left open are filled in.

    ``old_classes``, ``new_classes`` and ``information`` are, where a method has them and they are
    None; what has nothing to keep before the second task is left out of the first.
    """
    found = []
    for method in methods:
        if memory.first and getattr(type(method), "from_second_task", False):
            continue
        options = method.options()
        known: dict[str, Any] = {
            "old_classes": list(memory.old_classes),
            "new_classes": list(memory.new_classes),
            "information": memory.information,
        }
        for name, value in known.items():
            if name in options and options[name] is None:
                options[name] = value
        found.append(type(method)(**options))
    return found


def fisher_samples(methods: Iterable[Method]) -> int:
    """Samples that a task's Fisher diagonal is estimated on; 0 where no method asks for it."""
    return max((int(getattr(m, "samples", 0)) for m in methods if _carries(m)), default=0)


def fisher_rows(size: int, samples: int) -> list[int]:
    """Rows that lie evenly over a training set."""
    return [row for row in range(size) if spread(row, size, samples)]


def consolidate(
    methods: Sequence[Method], model: nn.Module, batches: Iterable[Any],
    before: Mapping[str, Tensor] | None, *, classes: Sequence[int] | None = None, seed: int = 0,
) -> dict[str, Tensor] | None:  # fmt: skip
    """The Fisher diagonal at the end of a task, added to that of the tasks before.

    Args:
        methods: the recipe of the sequence.
        model: with the weights after the task.
        batches: its training samples, those of :func:`fisher_rows`, on the model's device.
        before: the diagonal so far.
        classes: outputs that count; None: all.
        seed: of the labels that are drawn.

    Returns:
        None where no method asks for it.
    """
    wanted = [method for method in methods if _carries(method)]
    if not wanted:
        return None
    options = wanted[0].options()
    device = next(model.parameters()).device
    new = diagonal_fisher(
        model, batches, labels=_LABELS[options["fisher"]], classes=classes,
        likelihood="sigmoid" if sigmoid_head(methods) else "softmax",
        generator=torch.Generator(device).manual_seed(seed),
    )  # fmt: skip
    return accumulate_fisher(before, new, options["gamma"])


def sigmoid_head(methods: Iterable[Method]) -> bool:
    """Whether outputs are trained as decisions of their own."""
    return any(
        m.info.name == "incremental_bce" and m.options()["old_logits"] != "mask" for m in methods
    )


def _carries(method: Method) -> bool:
    return {"information", "gamma", "fisher"} <= set(method.info.options)
