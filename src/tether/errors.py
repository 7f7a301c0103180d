"""The one error that tether raises for what a user can remedy."""

from __future__ import annotations


class TetherError(RuntimeError):
    """Something about the model, data, loop or recipe must be changed; the message says what."""


class NonFiniteError(TetherError):
    """A part of the loss became infinite or not a number; the message names it and the step."""


class ConfigError(TetherError):
    """What was asked for cannot be done: a bad option, file or folder (exit code 2)."""


class Interrupted(TetherError):
    """A signal asked a job to stop, and it did so in good order (exit code 128 + signal).

    Args:
        signum: number of the signal.
        message: what was kept, and how to go on.
    """

    def __init__(self, signum: int, message: str = "saved; go on with --resume") -> None:
        super().__init__(message)
        self.signum = int(signum)
