"""A model's state for a folder, and who writes it."""

from __future__ import annotations

import torch
from torch import nn


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state on the CPU, each tensor on its own; sharded ones are gathered (on every rank)."""
    state = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        state[name] = whole.detach().to("cpu", copy=True).contiguous()
    return state


def writes() -> bool:
    """Whether this process writes files: always, except on ranks above 0."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )
