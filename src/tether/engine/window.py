"""Accumulation windows: the backward passes between two updates."""

from __future__ import annotations

from collections.abc import Iterable

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
    forgotten, as the user's gradients were.
    """

    def __init__(self, seam: OptimizerSeam, auxiliaries: Auxiliaries, acts: bool) -> None:
        self._seam = seam
        self._auxiliaries = auxiliaries
        self._acts = acts
        self.backward_seen = False
        self._skipped = 0

    def watch(self, loss: Tensor) -> None:
        """Learn whether the loss is backpropagated."""
        if loss.requires_grad:
            loss.register_hook(self._note)  # type: ignore[no-untyped-call]

    def _note(self, gradient: Tensor) -> None:
        self.backward_seen = True

    def updated(self) -> None:
        """The update was made."""
        self.backward_seen = False
        self._skipped = 0

    def begin_loss(self, methods: Iterable[Method]) -> None:
        """Before a loss: forget what belongs to a window that was dropped.

        Raises:
            TetherError: window after window was dropped; another optimiser is being stepped.
        """
        if self._seam.optimizer is None or not self.backward_seen:
            return
        if any(parameter.grad is not None for parameter in self._seam.parameters()):
            return
        self.backward_seen = False
        with torch.no_grad():
            for method in methods:
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
