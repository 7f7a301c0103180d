"""Classes of a sequence: all tasks bring new ones, or all have the same; and a head that grows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import nn

from tether.engine.taps import find_head
from tether.errors import ConfigError, TetherError
from tether.models.build import fresh_head, like_linear


def check_tasks(names: Sequence[str], classes: Sequence[Sequence[Hashable]]) -> bool:
    """Whether all tasks have the same classes; False where each one brings new ones.

    Args:
        names: of the tasks.
        classes: of each task.

    Raises:
        ConfigError: fewer than two tasks, or tasks that share some of their classes.

    Example:
        >>> check_tasks(["a", "b"], [["cat", "dog"], ["owl", "hen"]])
        False
    """
    if len(names) < 2:
        raise ConfigError(f"a sequence has two tasks at least, got {len(names)}")
    sets = [set(one) for one in classes]
    if all(one == sets[0] for one in sets):
        return True
    for later in range(len(sets)):
        for earlier in range(later):
            shared = sets[earlier] & sets[later]
            if shared:
                some = ", ".join(sorted(map(str, shared))[:5])
                raise ConfigError(
                    f"the tasks {names[earlier]!r} and {names[later]!r} of the sequence share the "
                    f"classes {some}, but not all tasks have the same: either each task brings "
                    "classes of its own (rename those that only happen to be called alike), or all "
                    "have the same ones"
                )
    return False


def grow_head(
    model: nn.Module, outputs: int, *, head: str | None = None, seed: int = 0
) -> nn.Module:
    """Put a head with more outputs in the place of the present one; its rows are kept.

    Args:
        model: changed in place; make its optimiser afterwards.
        outputs: how many there are to be, at least as many as now.
        head: dotted name of the last linear layer, where it cannot be found.
        seed: of the new rows.

    Returns:
        the new head.

    Raises:
        TetherError: no head is found, or it would shrink.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> grow_head(model, 4).out_features
        4
    """
    name, found = find_head(model, head, None)
    old: Any = found
    if not isinstance(found, nn.Linear):
        raise TetherError(f"the head {name!r} is a {type(found).__name__}: only a linear one grows")
    if outputs < found.out_features:
        raise TetherError(
            f"the head {name!r} has {found.out_features} outputs, {outputs} are fewer"
        )
    new = like_linear(old, outputs).to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        fresh_head(new, seed)
        new.weight[: old.out_features] = old.weight
        if old.bias is not None:
            new.bias[: old.out_features] = old.bias
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return new
