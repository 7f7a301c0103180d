"""Services of a method's context that rest on the recipe and the task loss alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from tether.engine.loader import to_device
from tether.engine.state import kept_random_state
from tether.engine.statistics import read_batches, restore_mode

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Forward
    from tether.engine.handle import Handle
    from tether.method import Method


class Services:
    """Part of :class:`tether.engine.context.Context`."""

    _handle: Handle

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The plain task loss of each row, ``[N]``; 0 for rows that do not count."""
        task = self._handle.task
        return task.per_sample(logits, task.check(logits, targets))

    def partner(self, kind: type[Method]) -> Method | None:
        """The method of this class in the recipe, for one that works on what it leaves behind."""
        found = (m for m in self._handle.methods.values() if isinstance(m, kind))
        return next(found, None)

    def change_output(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Change the output of a layer in training forwards, until tether is detached.

        In ``forward``, too, where it repeats the call of this step, and in ``teacher``; not on
        other inputs, and not in evaluation mode.

        Args:
            name: of the layer.
            change: output -> output.
        """
        self._handle.taps.change_output(name, change)

    def evaluate(self, data: Any) -> Iterator[Batch]:
        """Batches of data (validation data, say) in evaluation mode and without gradients.

        Each rank sees its share, in row order; ``mask`` is False for rows that only fill up. Not
        within a step: at the start or the end of an epoch.
        """
        model = self._handle.inner
        flags = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad(), kept_random_state(self._handle.device):
                yield from read_batches(self._handle, data)
        finally:
            restore_mode(flags)

    def unmixed(self, batch: Batch) -> Forward | None:
        """The model on the rows as they were before they were mixed; None where none were.

        In the mode that it trains in, without a graph: one forward a step, however many methods
        ask. They share its tensors, so that nobody may change them in place.
        """
        if "unmixed" not in batch.extras:
            return None
        found: Forward | None = batch.extras.get("unmixed_forward")
        if found is None:
            args, kwargs = to_device(batch.extras["unmixed"], self._handle.device)
            # other objects than those of the step's own call, behind which words are mixed
            args = tuple(x.view_as(x) if isinstance(x, Tensor) else x for x in args)
            named = {n: x.view_as(x) if isinstance(x, Tensor) else x for n, x in kwargs.items()}
            found = cast(Any, self).forward(*args, grad=False, **named)
            batch.extras["unmixed_forward"] = found
        return found
