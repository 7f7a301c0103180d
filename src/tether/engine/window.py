"""Accumulation windows: the backward passes between two updates."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from tether.engine.auxiliary import Auxiliaries
from tether.engine.hooks import OptimizerSeam
from tether.errors import TetherError
from tether.method import Method

#: A loss scaler skips some updates in a row until its scale fits; hardly more than this.
_MOST_SKIPPED = 64


class Window:
    """Notices a window that ended without an update: gradients came, and are gone again.

    A loss scaler skips an update with an infinite gradient without a word to the optimiser. What
    methods gathered for that update (``pooled`` state, gradients of their modules) is then
    forgotten, as the user's gradients were. It shows when a backward begins and no gradient is
    left of the one before (``zero_grad`` with its default, ``set_to_none=True``).

    Raises:
        TetherError: window after window was dropped; another optimiser is being stepped.
    """

    def __init__(
        self,
        seam: OptimizerSeam,
        auxiliaries: Auxiliaries,
        methods: Collection[Method],
        acts: bool,
    ) -> None:
        self._seam = seam
        self._auxiliaries = auxiliaries
        self._methods = methods
        self._acts = acts
        self.backward_seen = False
        self._skipped = 0

    def watch(self, loss: Tensor, writes: list[Callable[[], None]]) -> None:
        """Make the writes when the loss is backpropagated, and know that it was."""
        if not loss.requires_grad:
            return

        def note(gradient: Tensor) -> None:
            self._drop_if_gone()
            self.backward_seen = True
            with torch.no_grad():
                while writes:  # once, also where a graph is walked twice
                    writes.pop(0)()

        loss.register_hook(note)  # type: ignore[no-untyped-call]

    def updated(self) -> None:
        """The update was made."""
        self.backward_seen = False
        self._skipped = 0

    def _drop_if_gone(self) -> None:
        """As a backward begins: forget what belongs to a window that was dropped."""
        if self._seam.optimizer is None or not self.backward_seen:
            return
        if any(parameter.grad is not None for parameter in self._seam.parameters()):
            return
        with torch.no_grad():
            for method in self._methods:
                for name in method.pooled:
                    getattr(method, name).zero_()
        self._auxiliaries.forget_gradients()
        self._skipped += 1
        if self._skipped >= _MOST_SKIPPED and self._acts:
            raise TetherError(
                f"{_MOST_SKIPPED} backward passes went by and the bound optimiser made no step, so "
                "the methods do not act: bind the optimiser that is stepped (hooks do not survive "
                "a deep copy)"
            )
