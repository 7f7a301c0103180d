"""The one error that tether raises for what a user can remedy."""

from __future__ import annotations


class TetherError(RuntimeError):
    """Something about the model, data, loop or recipe must be changed; the message says what."""


class NonFiniteError(TetherError):
    """A part of the loss became infinite or not a number; the message names it and the step."""


class ConfigError(TetherError):
    """What was asked for cannot be done as it stands: a bad option, file or folder (exit code 2)."""
