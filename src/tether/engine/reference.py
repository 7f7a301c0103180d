"""The pretrained weights w0: canonical names, shards, and a fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tether.errors import TetherError

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def canonical(name: str) -> str:
    """A parameter's name without the parts that compile and checkpoint wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside DDP and ``torch.compile`` wrappers.

    Raises:
        TetherError: a wrapper that replicates or flattens the parameters.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise TetherError("nn.DataParallel copies the model in each forward: use DDP instead")
        if type(model).__name__ == "FullyShardedDataParallel":
            raise TetherError("FSDP1 flattens the parameters: use fully_shard (FSDP2) instead")
        inner = model.__dict__.get("_modules", {}).get("_orig_mod")
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor (parameters under FSDP2)."""
    return hasattr(tensor, "_local_tensor") and hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """The shard of this rank, sharing memory; an ordinary tensor is returned as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """A copy with the shards of all ranks, which must all call this where it is sharded."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full.detach().clone()


def copy_whole_(tensor: Tensor, values: Tensor) -> None:
    """Fill a tensor, or the shards of all ranks, from a whole one."""
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        values = distribute_tensor(values.to(tensor.device), mesh, placements)
    tensor.copy_(values)


def sum_over_shards(values: Tensor, like: Tensor) -> Tensor:
    """Sum partial values over the ranks between which ``like`` is split."""
    if is_sharded(like):
        for dim, placement in enumerate(like.placements):  # type: ignore[attr-defined]
            if placement.is_shard():
                dist.all_reduce(values, group=like.device_mesh.get_group(dim))  # type: ignore[attr-defined]
    return values


def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """Sum and Euclidean norm of each tensor, float64 ``[n, 2]`` on the CPU.

    Equal tensors give equal rows up to the order of summation (sharded or not), so that two
    fingerprints are compared with a tolerance of 1e-9.
    """
    if not tensors:
        return torch.zeros(0, 2, dtype=torch.float64)
    rows = []
    for tensor in tensors:
        shard = local(tensor).detach()
        real = shard.double() if not shard.is_floating_point() else shard
        total = real.sum(dtype=torch.float64)
        square = torch.linalg.vector_norm(real, dtype=torch.float64) ** 2
        rows.append(sum_over_shards(torch.stack([total, square]), tensor))
    table = torch.stack(rows)
    table[:, 1].sqrt_()
    return table.cpu()


def same_fingerprint(first: Tensor, second: Tensor) -> bool:
    """Whether two fingerprints describe the same tensors."""
    return first.shape == second.shape and torch.allclose(
        first, second, rtol=1e-9, atol=1e-9, equal_nan=True
    )


class Reference(Mapping[str, Tensor]):
    """Parameters and buffers of the model as they were when tether was attached.

    The copy is made once, at the first time a method touches it during ``setup``; it is sharded
    where the parameters are. Tied parameters are kept once, under their first name.

    Args:
        model: the inner model.
        device: where to keep the copy; None: where each tensor is. A method brings a copy that
            is elsewhere to the parameter's device when it uses it.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self._model = model
        self._device = None if device is None else torch.device(device)
        self._tensors: dict[str, Tensor] = {}
        self.taken = False
        self.sealed = False

    def _take(self) -> None:
        if self.taken:
            return
        if self.sealed:
            raise RuntimeError('w0 was not remembered: declare needs=("reference",)')
        self.taken = True
        with torch.no_grad():
            for name, tensor in named_tensors(self._model):
                copy = tensor.detach().clone(memory_format=torch.preserve_format)
                self._tensors[name] = copy if self._device is None else copy.to(self._device)

    def __getitem__(self, name: str) -> Tensor:
        self._take()
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        self._take()
        return iter(self._tensors)

    def __len__(self) -> int:
        self._take()
        return len(self._tensors)

    def fingerprint(self, skip: Sequence[str]) -> Tensor:
        """Fingerprint of all tensors but those named in ``skip`` (a newly drawn head)."""
        return fingerprint([t for name, t in self._tensors.items() if name not in skip])


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters (tied ones once) and persistent buffers, with canonical names."""
    for name, parameter in model.named_parameters():
        yield canonical(name), parameter
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield canonical(f"{prefix}.{name}" if prefix else name), buffer
