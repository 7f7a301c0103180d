"""State in and out: random numbers, safetensors files, and wholeness across ranks."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tether.errors import TetherError
from tether.method import Method

FORMAT = 1


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if distributed() else 1


# -- random numbers ------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the generators that user code draws from, as tensors and numbers."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_gauss": gauss,
        "python_version": version,
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_position": [int(position), int(has_gauss), float(cached)],
        "numpy_name": str(name),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    random.setstate(
        (state["python_version"], tuple(state["python"].tolist()), state["python_gauss"])
    )
    position, has_gauss, cached = state["numpy_position"]
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state((state["numpy_name"], keys, int(position), int(has_gauss), cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the user's random numbers go on as before."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


# -- files ---------------------------------------------------------------------------------------


def _pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        # a copy of its own memory: safetensors refuses tensors that share storage
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"pairs": [[k, _pack(v, tensors, f"{path}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"items": [_pack(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]}
    return {"value": value}


def _unpack(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "pairs" in node:
        return {key: _unpack(value, tensors) for key, value in node["pairs"]}
    if "items" in node:
        return [_unpack(value, tensors) for value in node["items"]]
    return node["value"]


def rank_path(path: str | os.PathLike[str]) -> Path:
    """The file of this rank: the path itself on rank 0, a neighbour of it on the others."""
    main = Path(path)
    return main if rank() == 0 else main.with_name(f"{main.name}.rank{rank()}")


def save_tree(tree: dict[str, Any], path: Path) -> None:
    """Write nested dicts of tensors and plain values as one safetensors file, atomically."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors, "state"))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"tether": text})
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tree(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tree` wrote; nothing is unpickled."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TetherError(f"no state file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TetherError(f"{path} is damaged or no safetensors file: {error}") from None
    if "tether" not in metadata:
        raise TetherError(f"{path} was not written by tether")
    tree: dict[str, Any] = _unpack(json.loads(metadata["tether"]), tensors)
    return tree


# -- declared state ------------------------------------------------------------------------------


def method_state(method: Method) -> dict[str, Any]:
    """Copies of a method's declared state."""
    state = {}
    for name in method.declared_state():
        value = getattr(method, name)
        state[name] = value.detach().clone() if isinstance(value, Tensor) else value
    return state


def check_method_state(method: Method, name: str, state: dict[str, Any]) -> None:
    """Raise where saved state does not fit what the method declares.

    Raises:
        TetherError: the names or shapes differ.
    """
    declared = set(method.declared_state())
    if declared != set(state):
        raise TetherError(
            f"the saved state of {name!r} holds {sorted(state)}, the method declares "
            f"{sorted(declared)}: it was saved by another version or with other options"
        )
    for key, saved in state.items():
        present = getattr(method, key)
        if not isinstance(present, Tensor):
            continue
        if not isinstance(saved, Tensor) or present.shape != saved.shape:
            shape = tuple(saved.shape) if isinstance(saved, Tensor) else saved
            raise TetherError(
                f"state {key!r} of {name!r} has shape {tuple(present.shape)}, saved was {shape}: "
                "the data set, the classes or the options differ from the saved run"
            )


def load_method_state(method: Method, state: dict[str, Any]) -> None:
    """Put saved state back, in place where it is a tensor."""
    for key, saved in state.items():
        present = getattr(method, key)
        if isinstance(present, Tensor):
            with torch.no_grad():
                present.copy_(saved)
        else:
            setattr(method, key, saved)


class RankSync:
    """Makes declared state whole across ranks at the end of an epoch."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self.methods = methods
        #: tables and counters as they were when they were last equal on all ranks
        self.base: dict[str, Tensor] = {}

    def _states(self, *syncs: str) -> list[tuple[str, Method, str]]:
        return [
            (f"{owner}.{name}", method, name)
            for owner, method in self.methods.items()
            for name, sync in method.declared_state().items()
            if sync in syncs
        ]

    def remember(self) -> None:
        if distributed():
            states = self._states("per_sample", "sum")
            self.base = {key: getattr(m, n).clone() for key, m, n in states}

    def merge(self) -> None:
        """Rows that ranks changed win; a row that several changed becomes their mean.

        For whole-number tables (labels) the largest changed value wins, on all ranks alike.
        """
        if not distributed():
            return
        for key, method, name in self._states("per_sample"):
            table: Tensor = getattr(method, name)
            base = self.base[key]
            rows = table.ne(base).reshape(table.shape[0], -1).any(1)
            keep = rows.reshape(-1, *([1] * (table.ndim - 1)))
            if table.is_floating_point():
                total = torch.where(keep, table - base, torch.zeros_like(table))
                count = rows.to(table.dtype)
                dist.all_reduce(total)
                dist.all_reduce(count)
                table.copy_(base + total / count.clamp(min=1).reshape(keep.shape))
            else:
                low = torch.iinfo(table.dtype).min
                best = torch.where(keep, table, torch.full_like(table, low))
                dist.all_reduce(best, op=dist.ReduceOp.MAX)
                table.copy_(torch.where(best == low, base, best))
        for key, method, name in self._states("sum"):
            total = getattr(method, name) - self.base[key]
            dist.all_reduce(total)
            getattr(method, name).copy_(self.base[key] + total)
        for _, method, name in self._states("mean"):
            value: Tensor = getattr(method, name)
            dist.all_reduce(value)
            value.div_(world_size())
        self.remember()
