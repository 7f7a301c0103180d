"""Adversarial training by one attack step from a random start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import ConfigError, TetherError
from tether.measure.perturbations import single_step
from tether.measure.pixels import PixelSpace
from tether.method import Method
from tether.methods.inputs.places import numbers_of, with_value
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

STARTS = ("rs", "noise")


def random_start(
    like: Tensor, epsilon: float, init: str, generator: torch.Generator | None = None
) -> Tensor:
    """Uniform numbers in ``[-epsilon, epsilon]`` (``"rs"``), or twice as wide (``"noise"``)."""
    reach = epsilon if init == "rs" else 2.0 * epsilon
    draws = torch.rand(like.shape, generator=generator, device=like.device)
    return draws.mul_(2.0 * reach).sub_(reach)


@register(
    "fgsm_rs",
    kind="inputs",
    paper="arXiv:2001.03994",
    band="attack",
    cost="forward",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    neutral={"epsilon": 0.0},
    example={"epsilon": 0.1},
    stochastic=True,
    batch_statistics=True,
    search_space={"epsilon": ("log", 0.004, 0.07)},
)
class RandomStartFGSM(Method):
    """Train on inputs that one attack step has made harder: cheap adversarial training.

    Helps against small malicious changes of the inputs, at the price of two steps instead of
    eleven. Clean accuracy falls. **It may collapse**: from one epoch to the next the network
    withstands the step it is trained on and nothing else, the more easily the larger epsilon;
    put ``aaer`` beside it, which watches for that and works against it, and check the outcome by
    an attack of many steps (``tether.measure.robust_accuracy``). Token ids are refused.

    For each sample, in units of pixels before normalisation::

        eta ~ U(-k epsilon, k epsilon)        k = 1 for "rs", 2 for "noise"
        delta = eta + step_size sign(grad of the loss at x + eta)
        "rs": delta cut at -epsilon and epsilon
        train on x + delta                    x + eta and x + delta cut at bounds

    The loss of the step is the task's, on the targets as they come (mixed ones, too). The first
    forward leaves batch-norm statistics alone and fills no parameter's gradient.

    Args:
        epsilon: reach of the attack, from 0, schedulable (default and paper 8/255 for small
            photographs; 0 turns it off).
        step_size: None: 1.25 epsilon for "rs", epsilon for "noise".
        init: ``"rs"``, or ``"noise"`` (N-FGSM: more noise, no cut; collapses later).
        mean: what normalisation subtracts from pixels, one number or one a channel; None:
            nothing, or what ``tether tune`` knows.
        std: what normalisation divides by, likewise.
        bounds: range of pixels, such as ``[0, 1]``; None: no cut, or ``[0, 1]`` where ``tether
            tune`` reads images.

    Shape:
        the first argument of floating numbers in the model's call.

    State:
        none. ``start_logits`` holds the outputs at x + eta until the next batch.

    Cost:
        one more forward, and a backward to the inputs alone.

    Raises:
        ValueError: an option out of range.
        TetherError: no floating inputs, or no gradient reaches them.

    References:
        Eric Wong, Leslie Rice, J. Zico Kolter, "Fast is better than free: Revisiting adversarial
        training", ICLR 2020, arXiv:2001.03994.
        Pau de Jorge and others, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
        Training", NeurIPS 2022, arXiv:2202.01181.

    Example:
        >>> RandomStartFGSM(epsilon=0.03, init="noise")
        RandomStartFGSM(epsilon=0.03, init='noise')
    """

    def __init__(
        self,
        epsilon: ScheduleLike = 8 / 255,
        step_size: float | None = None,
        init: str = "rs",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        bounds: Sequence[float] | None = None,
    ) -> None:
        if isinstance(epsilon, (int, float)) and not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"epsilon must be a number from 0, got {epsilon!r}")
        if step_size is not None and not step_size > 0:
            raise ValueError(f"step_size must be above 0, got {step_size!r}")
        if init not in STARTS:
            raise ValueError(f"init must be one of {', '.join(STARTS)}, got {init!r}")
        self.epsilon = epsilon
        self.step_size = step_size
        self.init = init
        self.mean = mean
        self.std = std
        self.bounds = bounds
        #: The model's outputs where this batch's step began; None where it was not attacked.
        self.start_logits: Tensor | None = None
        self._told: tuple[Any, Any, Any] = (0.0, 1.0, None)
        try:
            self._space_on("cpu")
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def _space_on(self, device: Any) -> PixelSpace:
        given: tuple[Any, Any, Any] = (self.mean, self.std, self.bounds)
        mean, std, bounds = (
            told if own is None else own for own, told in zip(given, self._told, strict=True)
        )
        return PixelSpace(mean, std, bounds, device)

    def schedules(self) -> dict[str, Schedule]:
        """Epsilon's."""
        return {"epsilon": Schedule(self.epsilon)}

    def take_facts(self, facts: dict[str, Any]) -> None:
        """How a run normalises its images."""
        image = facts.get("image")
        if image is not None:
            self._told = (image.mean, image.std, (0.0, 1.0))

    def setup(self, ctx: Context) -> None:
        """Numbers of the normalisation go to the device."""
        if ctx.partner(RandomStartFGSM) is not self:
            raise TetherError(
                "fgsm_rs stands in the recipe twice (aaer with an epsilon brings its own): leave "
                "one out"
            )
        self._space, self.start_logits = self._space_on(ctx.device), None

    def transform_batch(self, batch: Batch) -> Batch:
        """Attack the inputs."""
        epsilon, self.start_logits = self.value("epsilon"), None
        if epsilon <= 0.0 or not self.ctx.model.training:
            return batch
        place, x = numbers_of(batch, self.ctx.name)
        x, space = x.detach(), self._space
        begun = space.add(x, random_start(x, epsilon, self.init, self.ctx.generator))
        gradient = space.gradient(x, self._gradient(with_value(batch, place, begun), begun))
        ratio = 1.25 if self.init == "rs" else 1.0
        step = ratio * epsilon if self.step_size is None else self.step_size
        limit = epsilon if self.init == "rs" else None
        change = single_step(space.change(x, begun.detach()), gradient, step, limit)
        return with_value(batch, place, space.add(x, change))

    def _gradient(self, batch: Batch, begun: Tensor) -> Tensor:
        """Of the task loss with respect to the inputs; keeps the outputs."""
        ctx = self.ctx
        with torch.enable_grad():
            begun.requires_grad_()
            logits = ctx.forward(*batch.args, **batch.kwargs).logits
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = ctx.sample_losses(logits, batch.targets).sum()
            try:
                (gradient,) = ctx.grad(loss, [begun])
            except RuntimeError as error:
                raise TetherError(
                    f"{ctx.name!r}: no gradient reaches the inputs, so there is nothing to attack "
                    f"along ({error})"
                ) from None
        self.start_logits = logits.detach()
        return torch.nan_to_num(gradient)
