"""Between the inputs of a network and pixels, and where in a model's call the pixels stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import torch
from torch import Tensor

from tether.errors import ConfigError

Channels = Union[float, Sequence[float]]


class PixelSpace:
    """Between the network's inputs and pixels: ``pixel = input std + mean``.

    Args:
        mean: what normalisation subtracts, one number or one a channel (dimension 1).
        std: what it divides by, likewise.
        bounds: range of pixels; changed inputs are cut there. None: no cut.
        device: where the inputs will be, so that no step copies the numbers there.

    Raises:
        ConfigError: std not above 0, bounds that are no range.

    Example:
        >>> space = PixelSpace(0.5, 0.25, (0.0, 1.0))
        >>> space.add(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.1, 0.1]]))
        tensor([[0.4000, 2.0000]])
    """

    def __init__(
        self, mean: Channels = 0.0, std: Channels = 1.0, bounds: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.mean = torch.as_tensor(mean, dtype=torch.float32)
        self.std = torch.as_tensor(std, dtype=torch.float32)
        self.bounds = bounds
        if not bool((self.std > 0).all()) or max(self.std.ndim, self.mean.ndim) > 1:
            raise ConfigError(f"std must be above 0, one number or one a channel, not {std}")
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ConfigError(f"bounds must be a smaller and a larger number, not {bounds}")
        self.mean, self.std = self.mean.to(device), self.std.to(device)

    def _like(self, values: Tensor, x: Tensor) -> Tensor:
        if values.ndim and (x.ndim < 2 or len(values) not in (1, x.shape[1])):
            raise ConfigError(
                f"mean and std are given for {len(values)} channels, inputs of shape "
                f"{tuple(x.shape)} have others"
            )
        values = values.to(x.device)
        return values.reshape(1, -1, *[1] * (x.ndim - 2)) if values.ndim else values

    def add(self, x: Tensor, change: Tensor) -> Tensor:
        """The inputs with their pixels changed, cut at the bounds."""
        std, mean = self._like(self.std, x), self._like(self.mean, x)
        found = x.float() + change / std
        if self.bounds is not None:
            low, high = self.bounds
            found = ((found * std + mean).clamp(low, high) - mean) / std
        return found.to(x.dtype)

    def change(self, x: Tensor, changed: Tensor) -> Tensor:
        """What was added to the pixels."""
        return (changed.float() - x.float()) * self._like(self.std, x)

    def gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient with respect to pixels."""
        return gradient.float() / self._like(self.std, x)

    def pixels(self, x: Tensor) -> Tensor:
        """The inputs before normalisation."""
        return x.float() * self._like(self.std, x) + self._like(self.mean, x)

    def inputs(self, pixels: Tensor) -> Tensor:
        """The inputs that stand for pixels, float32."""
        return (pixels.float() - self._like(self.mean, pixels)) / self._like(self.std, pixels)


def floating_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str | None:
    """Which argument of a model's call holds the numbers that may be changed; None: there is none.

    The first positional one of floating numbers, else the keyword that holds images, embeddings
    or sound, else the first keyword of floating numbers.

    Example:
        >>> floating_input((), {"mask": torch.ones(2), "pixel_values": torch.rand(2, 3)})
        'pixel_values'
    """
    for place, value in enumerate(args):
        if isinstance(value, Tensor) and value.is_floating_point():
            return place
    tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    floating = [name for name, value in tensors.items() if value.is_floating_point()]
    known = ("pixel_values", "inputs_embeds", "input_values", "input_features", *floating)
    return next((name for name in known if name in floating), None)
