"""Optimisers of auxiliary modules that follow the main one: its class, options and schedule."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tether.engine.reference import canonical

#: What a scheduler writes for itself, and what belongs to one optimiser alone.
_OWN = ("params", "initial_lr", "param_names")


class Follower:
    """An optimiser like the main one, whose learning rates move as the main one's do.

    A copy of the model (the same names and shapes) gets the main optimiser's groups, and in every
    step their present numbers: learning rate, weight decay, momentum. Parameters that the main
    optimiser does not hold are not trained in the copy. Any other module gets one group under the
    main optimiser's defaults; its learning rate follows the schedule of the main one's first
    group.

    Args:
        main: the main optimiser.
        module: what is trained.
        model: the model that the main optimiser trains.
    """

    def __init__(self, main: torch.optim.Optimizer, module: nn.Module, model: nn.Module) -> None:
        known = inspect.signature(type(main)).parameters
        options = {k: v for k, v in main.defaults.items() if k in known}
        self._groups = _groups_like(main, module, model)
        self._starts = [float(group["lr"]) for group in main.param_groups]
        given: list[Any] = [
            {**_numbers(main.param_groups[at]), "params": parameters}
            for at, parameters in self._groups
        ]
        if not given:
            given = [{"params": list(module.parameters())}]
        self.optimizer: torch.optim.Optimizer = type(main)(given, **options)

    def follow(self, main: torch.optim.Optimizer) -> None:
        """Take over the main optimiser's present numbers, before a step."""
        if self._groups:
            for own, (at, _) in zip(self.optimizer.param_groups, self._groups, strict=True):
                own.update(_numbers(main.param_groups[at]))
            return
        leader = main.param_groups[0]
        start = leader.get("initial_lr", self._starts[0])
        if start == 0.0:  # of a group that is never trained nothing can be learnt
            return
        for own in self.optimizer.param_groups:
            lr = self.optimizer.defaults["lr"] * leader["lr"] / start
            own["lr"] = lr.detach().clone() if isinstance(lr, Tensor) else lr


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group; tensors are copied, since some optimisers change them in place."""
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in group.items()
        if key not in _OWN
    }


def _groups_like(
    main: torch.optim.Optimizer, module: nn.Module, model: nn.Module
) -> list[tuple[int, Sequence[nn.Parameter]]]:
    """(number of the main optimiser's group, its parameters in the copy); empty for no copy."""
    own = {canonical(name): p for name, p in module.named_parameters()}
    theirs = {canonical(name): p for name, p in model.named_parameters()}
    shapes = [{n: p.shape for n, p in named.items()} for named in (own, theirs)]
    if shapes[0] != shapes[1] or not own:
        return []
    names = {id(p): name for name, p in theirs.items()}
    found = [
        (at, [own[names[id(p)]] for p in group["params"] if id(p) in names])
        for at, group in enumerate(main.param_groups)
    ]
    return [(at, parameters) for at, parameters in found if parameters]
