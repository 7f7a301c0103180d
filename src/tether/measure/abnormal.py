"""How many samples lose loss under an attack step: the sign of catastrophic overfitting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.errors import ConfigError, TetherError
from tether.losses import IGNORE
from tether.measure.batches import Batches, Inputs, batches_of
from tether.measure.evaluation import forward
from tether.measure.perturbations import single_step
from tether.measure.pixels import Channels, PixelSpace, floating_input
from tether.measure.weights import undisturbed


def abnormal_adversarial_fraction(
    model: nn.Module,
    data: Batches,
    *,
    epsilon: float,
    step_size: float | None = None,
    start: bool = True,
    mean: Channels = 0.0,
    std: Channels = 1.0,
    bounds: tuple[float, float] | None = None,
    max_samples: int | None = 1000,
    seed: int = 0,
) -> float:
    """Share of the samples whose loss one step of the fast gradient sign method lowers.

    Near 0 for a network that is smooth at the scale of epsilon. A network that was trained on
    such steps and has come to withstand nothing else shows a large share.

    Args:
        model: returns class scores.
        data: batches, a loader or a data set; labels are class indices (-100 is left out).
        epsilon: reach of the step, in units of pixels.
        step_size: None: 1.25 epsilon from a random start, else epsilon.
        start: begin at a random place within epsilon, as in training.
        mean: what normalisation subtracts from pixels.
        std: what it divides by.
        bounds: range of pixels; None: no cut.
        max_samples: take the first so many; None takes all.
        seed: of the random starts.

    Raises:
        ConfigError: epsilon not above 0, inputs that hold no floating numbers, no samples.
        TetherError: no gradient reaches the inputs.

    References:
        Runqi Lin, Chaojian Yu, Tongliang Liu, "Eliminating Catastrophic Overfitting Via Abnormal
        Adversarial Examples Regularization", NeurIPS 2023, arXiv:2404.08154.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> data = [(torch.randn(8, 2), torch.arange(8) % 2)]
        >>> abnormal_adversarial_fraction(net, data, epsilon=0.1, start=False)
        0.0
    """
    if not 0.0 < epsilon < float("inf"):
        raise ConfigError(f"epsilon must be a number above 0, not {epsilon}")
    space = PixelSpace(mean, std, bounds)
    generator = torch.Generator().manual_seed(int(seed))
    step = (1.25 * epsilon if start else epsilon) if step_size is None else step_size
    abnormal = samples = 0
    with undisturbed(model) as inner:
        for inputs in batches_of(inner, data, max_samples=max_samples):
            place = floating_input(inputs.args, inputs.kwargs)
            if place is None:
                raise ConfigError("these inputs hold no floating numbers that could be moved")
            x: Tensor = inputs.args[place] if isinstance(place, int) else inputs.kwargs[place]
            change = torch.zeros_like(x, dtype=torch.float32)
            if start:
                draws = torch.rand(x.shape, generator=generator).to(x.device)
                change = draws * (2 * epsilon) - epsilon
            begun = space.add(x, change)
            before, gradient = _losses(inner, inputs, place, begun)
            change = space.change(x, begun)
            change = single_step(change, space.gradient(x, gradient), step, epsilon)
            after, _ = _losses(inner, inputs, place, space.add(x, change))
            counted = inputs.targets != IGNORE
            abnormal += int(((before > after) & counted).sum())
            samples += int(counted.sum())
    if not samples:
        raise ConfigError("the data hold no sample with a label: there is nothing to measure")
    return abnormal / samples


def _losses(model: nn.Module, inputs: Inputs, place: int | str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each sample, and the gradient of their sum with respect to the inputs."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        if isinstance(place, int):
            args = (*inputs.args[:place], leaf, *inputs.args[place + 1 :])
            logits = forward(model, inputs._replace(args=args))
        else:
            logits = forward(model, inputs._replace(kwargs=inputs.kwargs | {place: leaf}))
        losses = F.cross_entropy(logits, inputs.targets, reduction="none", ignore_index=IGNORE)
        try:
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        except RuntimeError as error:
            raise TetherError(
                f"no gradient reaches the inputs, so that no step can be made ({error})"
            ) from None
    return losses.detach(), torch.nan_to_num(gradient)
