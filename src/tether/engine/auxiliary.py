"""Modules that methods own: priors, policies, discriminators, averaged copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Union

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tether.engine.followers import Follower
from tether.engine.state import distributed, world_size
from tether.errors import TetherError

OptimizerLike = Union[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], None]


@dataclass
class Auxiliary:
    """One module of a method, and how it is trained."""

    name: str
    module: nn.Module
    spec: OptimizerLike
    optimizer: torch.optim.Optimizer | None = None
    follower: Follower | None = None
    ema_of: nn.Module | None = None
    ema_decay: float | Callable[[], float] = 0.999
    reduce: bool = True


class Auxiliaries:
    """All of them: bound to the main optimiser's kind, stepped after it, saved and restored."""

    def __init__(self) -> None:
        self.items: dict[str, Auxiliary] = {}
        self._main: torch.optim.Optimizer | None = None

    def add(self, item: Auxiliary) -> None:
        if item.name in self.items:
            raise TetherError(f"auxiliary module {item.name!r} exists already")
        if distributed():
            with torch.no_grad():
                for tensor in [*item.module.parameters(), *item.module.buffers()]:
                    dist.broadcast(tensor, src=0)
        if callable(item.spec):
            item.optimizer = item.spec(item.module.parameters())
        elif item.spec not in ("like_main", "main", None):
            raise TetherError(f"optimizer {item.spec!r}: 'like_main', 'main' or a factory")
        self.items[item.name] = item

    def bind(self, main: torch.optim.Optimizer, model: nn.Module) -> None:
        self._main = main
        for item in self.items.values():
            parameters = list(item.module.parameters())
            if item.spec == "like_main":
                item.follower = Follower(main, item.module, model)
                item.optimizer = item.follower.optimizer
            elif item.spec == "main":
                if hasattr(main.step, "_wrapped_by_lr_sched"):
                    raise TetherError(
                        f"the parameters of {item.name!r} join the main optimiser, which must "
                        "happen before a learning-rate scheduler is made: attach first"
                    )
                main.add_param_group({"params": parameters})

    def unbind(self, main: torch.optim.Optimizer | None) -> None:
        """Take back the groups that joined the main optimiser."""
        self._main = None
        if main is None:
            return
        joined = [i.module for i in self.items.values() if i.spec == "main"]
        own = {id(p) for module in joined for p in module.parameters()}
        main.param_groups[:] = [
            g for g in main.param_groups if not own or not {id(p) for p in g["params"]} <= own
        ]

    def _trained(self) -> list[tuple[Auxiliary, list[Tensor]]]:
        found = []
        for item in self.items.values():
            if item.optimizer is not None:
                grads = [p.grad for p in item.module.parameters() if p.grad is not None]
                if grads:
                    found.append((item, grads))
        return found

    def unscale(self, scale: Tensor | None, half: bool) -> None:
        """Bring gradients of the main loss to their true size, before methods set their own."""
        for item, grads in self._trained():
            if scale is not None:
                torch._foreach_div_(grads, scale)
                for grad in grads:  # an infinite gradient of a skipped step must not stay
                    torch.nan_to_num_(grad, nan=0.0, posinf=0.0, neginf=0.0)
            elif half:
                raise TetherError(
                    f"{item.name!r} gets gradients of a float16 loss: give attach(..., "
                    "scaler=the GradScaler) so that they can be unscaled"
                )

    def step(self, found_inf: Tensor | None) -> None:
        """Reduce gradients over ranks, update, forget the gradients; then move the averages."""
        for item, grads in self._trained():
            assert item.optimizer is not None
            if item.reduce and distributed():
                for grad in grads:
                    dist.all_reduce(grad)
                torch._foreach_div_(grads, world_size())
            if item.follower is not None and self._main is not None:
                item.follower.follow(self._main)
            self._update(item.optimizer, found_inf)
            item.optimizer.zero_grad(set_to_none=True)
        for item in self.items.values():
            if item.ema_of is None and item.reduce and distributed():
                _share_buffers(item.module)
        for item in self.items.values():
            if item.ema_of is not None:
                self._average(item, found_inf)

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, found_inf: Tensor | None) -> None:
        if found_inf is None:
            optimizer.step()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
        elif not bool(found_inf):  # the only read of the device: fp16, fused main, unfused own
            optimizer.step()

    @staticmethod
    def _average(item: Auxiliary, found_inf: Tensor | None) -> None:
        assert item.ema_of is not None
        own: list[Tensor] = list(item.module.parameters())
        source: list[Tensor] = list(item.ema_of.parameters())
        decay = item.ema_decay() if callable(item.ema_decay) else item.ema_decay
        move: float | Tensor = 1.0 - decay
        if found_inf is not None:
            move = move * (1.0 - found_inf.reshape(()))
        pull = torch._foreach_sub(source, own)
        torch._foreach_mul_(pull, move)
        torch._foreach_add_(own, pull)
        for mine, theirs in zip(item.module.buffers(), item.ema_of.buffers(), strict=True):
            mine.copy_(theirs)
            if distributed() and mine.is_floating_point():  # each rank has statistics of its own
                dist.all_reduce(mine)
                mine.div_(world_size())

    def forget_gradients(self) -> None:
        for item in self.items.values():
            for parameter in item.module.parameters():
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {
            name: {
                "module": dict(item.module.state_dict()),
                "gradients": {
                    n: p.grad for n, p in item.module.named_parameters() if p.grad is not None
                },
                "optimizer": item.optimizer.state_dict() if item.optimizer else None,
            }
            for name, item in self.items.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, item in self.items.items():
            saved = state[name]
            item.module.load_state_dict(saved["module"])
            for key, parameter in item.module.named_parameters():
                grad = saved["gradients"].get(key)
                parameter.grad = None if grad is None else grad.to(parameter.device).clone()
            if item.optimizer is not None and saved["optimizer"] is not None:
                item.optimizer.load_state_dict(saved["optimizer"])


def _share_buffers(module: nn.Module) -> None:
    """Statistics of batch norms as rank 0 has them, on every rank: what DDP does for the model."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.detach().flatten() for buffer in buffers])
    dist.broadcast(flat, src=0)
    parts = torch.split_with_sizes(flat, [buffer.numel() for buffer in buffers])
    for buffer, values in zip(buffers, parts, strict=True):
        buffer.copy_(values.view_as(buffer))
