"""RandAugment: a few random operations on each image, one strength for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import ConfigError, TetherError
from tether.measure.pixels import Channels, PixelSpace
from tether.method import Method
from tether.methods.inputs.augmentation import BACKENDS, RandomOperations, change_images
from tether.methods.inputs.places import images_of, with_value
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "randaugment",
    kind="inputs",
    paper="arXiv:1909.13719",
    band="augment",
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    neutral={"num_ops": 0},
    example={"mean": 0.5, "std": 0.1},
    stochastic=True,
    search_space={"strength": ("uniform", 0.0, 0.6)},
)
class RandAugment(Method):
    """Random operations on each training image, as strong as one number says.

    Helps with few images and large networks: the strength is a knob that can be searched, and
    scheduled. Hurts where an operation changes the class: colour and solarising on medical
    images, rotation where up and down matter. Labels of places (boxes, masks) are not moved.
    Together with mixing or smoothed labels lower each.

    For each image, ``num_ops`` times: one of 14 operations is drawn (identity, contrast stretched,
    histogram levelled, rotation, solarising, colour, posterising, contrast, brightness,
    sharpness, shear and shift along x and y) and applied with the strength, its sign at random.
    The operations are those of torchvision or timm, whose scales differ; here the strength runs
    from 0 to 1 (magnitudes 0 to 30 of torchvision, 0 to 10 of timm).

    The cheap place is the loader of the training data, where its workers do it: give
    :attr:`transform` to the data set, before pixels become floating numbers. ``tether tune`` does
    so by itself. The strength is then that of the epoch. Otherwise the batches are changed on
    their way through ``reg.batches(loader)`` (or the mixin of the Trainer): pixels are worked out
    with ``mean`` and ``std``, changed in 256 steps, and normalised again; rows that an operation
    leaves alone keep their bits, and the strength follows its schedule step by step.

    Args:
        strength: from 0 to 1, schedulable (default 0.3; good: 0.2 to 0.3 on fine detail and small
            images, 0.5 for large networks; torchvision's default is 0.3, timm's recipes have 0.7
            to 0.9).
        num_ops: operations an image, from 0 (default 2; paper 1 to 3; 0 turns it off).
        backend: ``"torchvision"``, or ``"timm"``.
        include_fixed_ops: also draw those whose change does not depend on the strength; without
            them strength 0 leaves every image as it is (default true, as the paper).
        mean: what normalisation subtracts from pixels in [0, 1], one number or one a channel;
            None: nothing, or what ``tether tune`` knows. Only batches need it.
        std: what normalisation divides by, likewise.

    Shape:
        images ``[N, 1 or 3, H, W]``, normalised floating numbers or uint8.

    State:
        ``applied``, the strength in use; each image's draws follow from the seed and the step.

    Cost:
        about a millisecond an image of 224 pixels on a core; none in the step with
        :attr:`transform`.

    Raises:
        ValueError: an option out of range.
        TetherError: inputs that are no images, or whose pixels do not lie in [0, 1].

    References:
        Ekin D. Cubuk, Barret Zoph, Jonathon Shlens, Quoc V. Le, "RandAugment: Practical automated
        data augmentation with a reduced search space", 2019, arXiv:1909.13719.

    Example:
        >>> RandAugment(strength="linear(0, 0.5)", num_ops=1)
        RandAugment(strength='linear(0, 0.5)', num_ops=1)
    """

    def __init__(
        self,
        strength: ScheduleLike = 0.3,
        num_ops: int = 2,
        backend: str = "torchvision",
        include_fixed_ops: bool = True,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        if isinstance(strength, (int, float)) and not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must lie in [0, 1], got {strength!r}")
        if num_ops < 0 or int(num_ops) != num_ops:
            raise ValueError(f"num_ops must be a whole number from 0, got {num_ops!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.strength = strength
        self.num_ops = num_ops
        self.backend = backend
        self.include_fixed_ops = include_fixed_ops
        self.mean = mean
        self.std = std
        self._told: tuple[Channels, Channels] = (0.0, 1.0)
        try:
            self._space_on("cpu")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        first = Schedule(strength)(0.0)
        self._change = RandomOperations(first, int(num_ops), backend, include_fixed_ops)
        self._in_loader = self._looked = False

    def _space_on(self, device: Any) -> PixelSpace:
        mean, std = self._told
        return PixelSpace(
            mean if self.mean is None else self.mean, std if self.std is None else self.std,
            (0.0, 1.0), device,
        )  # fmt: skip

    @property
    def transform(self) -> RandomOperations:
        """For the transforms of the training set: image -> image. Batches are then left alone."""
        self._in_loader = True
        return self._change

    @property
    def applied(self) -> float:
        """The strength in use; what is set reaches the loader's workers."""
        return self._change.strength

    @applied.setter
    def applied(self, value: float) -> None:
        self._change.set_strength(float(value))

    def schedules(self) -> dict[str, Schedule]:
        """The strength's."""
        return {"strength": Schedule(self.strength)}

    def take_facts(self, facts: dict[str, Any]) -> None:
        """How a run normalises its images."""
        image = facts.get("image")
        if image is None:
            raise ConfigError("method 'randaugment' changes images, and the inputs are none")
        self._told = (image.mean, image.std)

    def setup(self, ctx: Context) -> None:
        """Begin with the schedule's first strength."""
        self._space, self._looked = self._space_on(ctx.device), False
        self.add_state("applied", self.value("strength"))

    def epoch_start(self, epoch: int) -> None:
        """The strength of the epoch, for the loader's workers."""
        self.applied = self.value("strength")

    def transform_batch(self, batch: Batch) -> Batch:
        """Change the images of a batch, unless the loader does."""
        if self._in_loader or self.num_ops == 0 or not self.ctx.model.training:
            return batch
        self.applied = self.value("strength")
        place, images = images_of(batch, self.ctx.name)
        if self.backend == "timm" and images.device.type != "cpu":
            raise TetherError(
                f"{self.ctx.name!r}: timm's operations work on the host: give method.transform to "
                "the training set, leave the batches there, or use backend='torchvision'"
            )
        seed = self.ctx.generator.initial_seed()
        if images.dtype == torch.uint8:
            return with_value(batch, place, change_images(images, self._change, seed))
        exact = self._space.pixels(images)
        self._look(exact)
        pixels = exact.clamp(0, 1).mul(255).round().to(torch.uint8)
        changed = change_images(pixels, self._change, seed)
        normal = self._space.inputs(changed.float() / 255).to(images.dtype)
        return with_value(batch, place, torch.where(changed == pixels, images, normal))

    def _look(self, pixels: Tensor) -> None:
        """Pixels outside [0, 1] tell a wrong mean or std; a device is waited for once only."""
        if self._looked and pixels.device.type != "cpu":
            return
        self._looked = True
        low, high = (float(end) for end in torch.aminmax(pixels))
        if low < -0.02 or high > 1.02:
            raise TetherError(
                f"{self.ctx.name!r}: with mean and std undone, pixels run from {low:.3g} to "
                f"{high:.3g} and not from 0 to 1: give the mean=... and std=... that normalised "
                "the inputs"
            )

    def measure(self) -> dict[str, Any]:
        """The strength in use."""
        return {"strength": self.applied}
