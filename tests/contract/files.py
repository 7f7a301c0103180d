"""Files that the examples of some records name, made for the networks of the contract."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

Network = Callable[[str, float], nn.Module]


@functools.cache
def weights_file(make_network: Network, kind: str) -> str:
    """A safetensors file of the network of a kind of loss, with other weights in it."""
    folder = tempfile.mkdtemp(prefix="tether-contract-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    draw = torch.Generator().manual_seed(11)
    moved = {
        name: value + 0.1 * torch.randn(value.shape, generator=draw)
        for name, value in make_network(kind, 0.0).state_dict().items()
        if value.is_floating_point()
    }
    save_file(moved, f"{folder}/{kind}.safetensors")
    return f"{folder}/{kind}.safetensors"


#: Options that name files: what makes them from the network and the kind of loss.
FILES: dict[str, Callable[[Network, str], dict[str, Any]]] = {
    "weight_repulsion": lambda network, kind: {"anchors": weights_file(network, kind)},
}
