"""Groups of parameters for the optimiser: by layer, with and without weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from tether.engine.layers import weight_refs


def parameter_groups(
    model: nn.Module,
    head: str,
    *,
    lr: float,
    head_lr_mult: float = 1.0,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters in the optimiser's groups, from the input to the head.

    The topmost layer below the head learns at ``lr``, each one below it ``layer_decay`` times
    slower, and the head at ``lr * head_lr_mult``. Biases, parameters of normalisation layers,
    other vectors, and what the model itself names (timm's ``no_weight_decay``) are not decayed.

    Args:
        model: frozen parameters are left out.
        head: dotted name of the head.
        lr: at least 0.
        head_lr_mult: at least 0.
        weight_decay: at least 0.
        layer_decay: above 0, at most 1.

    Returns:
        dicts with ``params``, ``lr``, ``weight_decay``, and ``name``: the layer, followed by
        ``/no_decay`` for the part that is not decayed.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> for g in parameter_groups(net, "2", lr=0.1, head_lr_mult=10.0, weight_decay=0.01):
        ...     print(g["name"], g["lr"], g["weight_decay"], len(g["params"]))
        0 0.1 0.01 1
        0/no_decay 0.1 0.0 1
        head 1.0 0.01 1
        head/no_decay 1.0 0.0 1
    """
    refs = weight_refs(model, head)
    tell = getattr(model, "no_weight_decay", None)
    spared = set(tell()) if callable(tell) else set()
    below = [ref.depth for ref in refs if not ref.is_head]
    top = max(below, default=0)
    groups: dict[str, dict[str, Any]] = {}
    for ref in sorted(refs, key=lambda ref: ref.depth):
        if not ref.param.requires_grad:
            continue
        plain = ref.role in ("bias", "norm") or ref.param.ndim < 2 or ref.name in spared
        rate = lr * (head_lr_mult if ref.is_head else layer_decay ** (top - ref.depth))
        name = f"{ref.group}/no_decay" if plain else ref.group
        group = groups.setdefault(
            name,
            {
                "params": [],
                "lr": rate,
                "weight_decay": 0.0 if plain else weight_decay,
                "name": name,
            },
        )
        group["params"].append(ref.param)
    return list(groups.values())
