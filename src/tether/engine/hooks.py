"""The seam to the optimiser: its own step hooks, closures and loss scaling included."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside accelerate's and similar wrappers.

    Raises:
        TetherError: it is not an optimiser, or it steps flat partitions (DeepSpeed ZeRO).
    """
    while hasattr(optimizer, "optimizer") and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TetherError(f"{type(optimizer).__name__} is not a torch optimiser")
    if "deepspeed" in type(optimizer).__module__:
        raise TetherError("DeepSpeed's optimisers step flat partitions: weight methods cannot act")
    return optimizer


class OptimizerSeam:
    """Runs ``edit`` just before and ``after`` just after each real update of an optimiser.

    The hooks belong to the optimiser, so they are right under gradient accumulation, clipping and
    loss scaling in any loop. A step with a closure evaluates the gradients inside the update:
    the closure is replaced by one that edits after every evaluation.
    """

    def __init__(self, edit: Callable[[], None], after: Callable[[], None], edits: bool) -> None:
        self._edit = edit
        self._after = after
        self._edits = edits
        self._handles: list[Any] = []
        self._group_of: dict[int, int] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        #: What fused optimisers divide the gradients by, and the flag of a skipped update.
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        if self.optimizer is not None:
            raise TetherError("an optimiser is bound already; detach() first")
        if self._edits and isinstance(optimizer, torch.optim.LBFGS):
            raise TetherError(
                "LBFGS needs a loss that matches its gradients; methods that edit gradients "
                "(weight penalties) cannot be combined with it"
            )
        self.optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._pre),
            optimizer.register_step_post_hook(self._post),
        ]

    def _pre(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self.grad_scale = getattr(optimizer, "grad_scale", None)
        self.found_inf = getattr(optimizer, "found_inf", None)
        at = next((i for i, a in enumerate(args) if callable(a) and a is not optimizer), None)
        closure = args[at] if at is not None else kwargs.get("closure")
        if closure is None:
            self._edit()
            return None

        def evaluate_then_edit() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._edit()
            return loss

        if at is not None:
            return (*args[:at], evaluate_then_edit, *args[at + 1 :]), kwargs
        return args, {**kwargs, "closure": evaluate_then_edit}

    def _post(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._after()
        self.grad_scale = self.found_inf = None

    def lr(self, parameter: nn.Parameter) -> float:
        """Present learning rate of the group that holds the parameter (0 where none does)."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        if id(parameter) not in self._group_of:  # groups may have been added since
            self._group_of = {id(p): at for at, g in enumerate(groups) for p in g["params"]}
        at = self._group_of.get(id(parameter))
        return 0.0 if at is None else float(groups[at]["lr"])

    def parameters(self) -> list[nn.Parameter]:
        if self.optimizer is None:
            return []
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.optimizer = None


def check_covered(
    optimizer: torch.optim.Optimizer, wanted: Iterable[tuple[str, str, nn.Parameter]]
) -> None:
    """Every trainable parameter on which a method acts must be in the optimiser.

    Args:
        optimizer: the optimiser that is being bound.
        wanted: (method, parameter name, parameter).

    Raises:
        TetherError: names the method and the missing parameters.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing: dict[str, list[str]] = {}
    for method, name, parameter in wanted:
        if parameter.requires_grad and id(parameter) not in held:
            missing.setdefault(method, []).append(name)
    for method, names in missing.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise TetherError(
            f"method {method!r} acts on trainable parameters that the optimiser does not hold: "
            f"{shown}; give them to the optimiser, or freeze them (requires_grad_(False)); with "
            "fully_shard, make the optimiser and attach after sharding"
        )
