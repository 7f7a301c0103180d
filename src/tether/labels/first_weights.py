"""The weights that a run began with, put into its model for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tether.models.spec import LoadedModel
from tether.tuning.opened import OpenedRun, fill


@contextmanager
def first_weights(opened: OpenedRun) -> Iterator[LoadedModel]:
    """The run's model with the weights that it began with; afterwards its own are back."""
    loaded = opened.assembly.loaded
    held = {name: tensor.detach().clone() for name, tensor in loaded.model.state_dict().items()}
    fill(loaded.model, opened.reference, "the weights that the run began with")
    try:
        yield loaded
    finally:
        fill(loaded.model, held, "the weights of the run")
