"""Accuracy on blurred, noisy and adversarial inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.errors import ConfigError, TetherError
from tether.losses import IGNORE
from tether.measure.batches import Batches, Inputs, batches_of
from tether.measure.evaluation import forward
from tether.measure.intervals import check_level
from tether.measure.perturbations import Attack, direction, gaussian_blur, limited, start
from tether.measure.pixels import Channels, PixelSpace, floating_input
from tether.measure.results import Record
from tether.measure.weights import undisturbed


def wilson_interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share by its score test: sound near 0 and 1, and for few trials.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with ``p = hits / n``.

    Args:
        hits: from 0 to ``trials``.
        trials: n, from 0; none gives (0, 1).
        level: coverage, between 0 and 1.

    Raises:
        ConfigError: more hits than trials, a level that is none.

    References:
        Edwin B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
        1927.

    Example:
        >>> tuple(round(end, 3) for end in wilson_interval(9, 10))
        (0.596, 0.982)
    """
    if not 0 <= hits <= trials:
        raise ConfigError(f"hits must lie between 0 and the trials, not {hits} of {trials}")
    if not trials:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + check_level(level)) / 2) ** 2
    p = hits / trials
    middle = p + z2 / (2 * trials)
    reach = math.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2)))
    size = 1 + z2 / trials
    low = 0.0 if hits == 0 else (middle - reach) / size  # exact where rounding would not be
    high = 1.0 if hits == trials else (middle + reach) / size
    return low, high


ATTACKS = (Attack(1 / 255), Attack(1 / 255, steps=10), Attack(0.25, "l2", steps=10))


@dataclass(frozen=True)
class RobustAccuracy(Record):
    """Accuracy under one change of the inputs.

    Attributes:
        kind: ``clean``, ``blur``, ``noise``, or the name of the attack.
        strength: sigma in pixels, standard deviation, or epsilon.
        accuracy: share of right predictions.
        low: lower end of its Wilson interval.
        high: upper end.
        correct: right predictions.
        samples: predictions.
    """

    kind: str
    strength: float
    accuracy: float
    low: float
    high: float
    correct: int
    samples: int


def robust_accuracy(
    model: nn.Module,
    data: Batches,
    *,
    blur: Sequence[float] = (0.5, 1.0, 2.0),
    noise: Sequence[float] = (0.05, 0.1, 0.2),
    attacks: Sequence[Attack] = ATTACKS,
    mean: Channels = 0.0,
    std: Channels = 1.0,
    bounds: tuple[float, float] | None = None,
    max_samples: int | None = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[RobustAccuracy]:
    """Accuracy of a classifier on clean, blurred, noisy and adversarial inputs.

    Sizes are told in the units of the inputs before normalisation, ``pixel = input std + mean``,
    so that networks with different normalisation compare. A sample withstands an attack when the
    clean input and all iterates are predicted right; such an attack is a lower bound of what a
    stronger one does. The model is in evaluation mode and afterwards exactly as before.

    Args:
        model: returns class scores.
        data: batches, a loader or a data set; labels are class indices (-100 is left out).
        blur: sigmas of the blur in pixels; ``()`` for inputs that are no images.
        noise: standard deviations of the added normal noise.
        attacks: the attacks.
        mean: what normalisation subtracts, one number or one a channel (dimension 1); needed with
            ``bounds`` only.
        std: what normalisation divides by, likewise.
        bounds: range of pixels, such as ``(0, 1)``: changed inputs are cut there; None: no cut.
        max_samples: take the first so many; None takes all.
        level: coverage of the intervals.
        seed: of noise and of random starts.

    Returns:
        One row for the clean inputs, then one for each blur, noise and attack, in this order.

    Cost:
        Forwards: ``1 + blurs + noises`` a sample, and for each attack ``steps + 1`` forwards and
        ``steps`` backwards.

    Raises:
        ConfigError: token ids (noise and gradients need numbers: pass ``inputs_embeds``), targets
            that are no class indices, options out of range, no samples.
        TetherError: a model whose outputs do not depend on the inputs in a differentiable way.

    References:
        Dan Hendrycks, Thomas Dietterich, "Benchmarking Neural Network Robustness to Common
        Corruptions and Perturbations", 2019, arXiv:1903.12261.
        Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras, Adrian Vladu,
        "Towards Deep Learning Models Resistant to Adversarial Attacks", 2017, arXiv:1706.06083.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.eye(2))
        >>> data = [(torch.tensor([[[[1.0, 0.5]]], [[[0.0, 0.1]]]]), torch.tensor([0, 1]))]
        >>> rows = robust_accuracy(net, data, blur=(), noise=(), attacks=[Attack(0.1)])
        >>> [(row.kind, row.accuracy) for row in rows]
        [('clean', 1.0), ('fgsm_linf', 0.5)]
    """
    check_level(level)
    if not all(math.isfinite(size) and size >= 0 for size in noise):
        raise ConfigError(f"standard deviations of noise must be from 0, not {tuple(noise)}")
    space = PixelSpace(mean, std, bounds)
    generator = torch.Generator().manual_seed(int(seed))
    tried: list[tuple[str, float]] = [("clean", 0.0)]
    tried += [("blur", s) for s in blur] + [("noise", s) for s in noise]
    tried += [(attack.name, attack.epsilon) for attack in attacks]
    correct, samples = [0] * len(tried), 0
    with undisturbed(model) as inner:
        for inputs in batches_of(inner, data, max_samples=max_samples):
            batch = _Batch(inner, inputs, space, generator)
            if not batch.count:
                continue
            samples += batch.count
            changed = [batch.clean]
            changed += [batch.right(gaussian_blur(batch.x, sigma)) for sigma in blur]
            changed += [batch.right(space.add(batch.x, batch.random() * size)) for size in noise]
            changed += [batch.withstands(attack) for attack in attacks]
            for place, right in enumerate(changed):
                correct[place] += int(right.sum())
    if not samples:
        raise ConfigError("the data hold no sample with a label: there is nothing to measure")
    return [
        RobustAccuracy(kind, size, hits / samples, *wilson_interval(hits, samples, level), hits,
                       samples)
        for (kind, size), hits in zip(tried, correct, strict=True)
    ]  # fmt: skip


class _Batch:
    """One batch and its float inputs, which alone are changed."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, space: PixelSpace, generator: torch.Generator
    ) -> None:
        self.model, self.inputs, self.space, self.generator = model, inputs, space, generator
        y = inputs.targets
        if y.is_floating_point() or y.ndim != 1:
            raise ConfigError(
                f"accuracy needs one class index a sample, not targets of shape {tuple(y.shape)}"
            )
        place = floating_input(inputs.args, inputs.kwargs)
        if place is None:
            raise ConfigError(
                "these inputs hold no floating numbers: token ids can be neither blurred nor moved "
                "along a gradient; pass batches with inputs_embeds, or leave robustness out for "
                "texts"
            )
        self.place: int | str = place
        self.counted = y != IGNORE
        self.count = int(self.counted.sum())
        self.clean = self.right(self.x) if self.count else self.counted

    @property
    def x(self) -> Tensor:
        """The inputs as they are."""
        source: Any = self.inputs.args if isinstance(self.place, int) else self.inputs.kwargs
        found: Tensor = source[self.place]
        return found

    def _logits(self, x: Tensor) -> Tensor:
        if isinstance(self.place, int):
            args = (*self.inputs.args[: self.place], x, *self.inputs.args[self.place + 1 :])
            logits = forward(self.model, self.inputs._replace(args=args))
        else:
            kwargs = self.inputs.kwargs | {self.place: x}
            logits = forward(self.model, self.inputs._replace(kwargs=kwargs))
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ConfigError(
                f"accuracy needs a score for each class, not outputs {tuple(logits.shape)}"
            )
        return logits

    def _hits(self, logits: Tensor) -> Tensor:
        sound = torch.isfinite(logits).all(1)
        return (logits.argmax(1) == self.inputs.targets) & sound & self.counted

    @torch.no_grad()
    def right(self, x: Tensor) -> Tensor:
        """Whether each sample is predicted right; rows without a label are not."""
        return self._hits(self._logits(x))

    def random(self) -> Tensor:
        """Standard normal numbers of the inputs' shape, the same on every device."""
        return torch.randn(self.x.shape, generator=self.generator).to(self.x.device)

    def withstands(self, attack: Attack) -> Tensor:
        """Whether the clean inputs and all iterates of an attack are predicted right."""
        x, held = self.x, self.clean
        change = torch.zeros_like(x, dtype=torch.float32)
        if attack.steps > 1:
            change = limited(start(self.random(), attack), attack)
        changed = self.space.add(x, change)
        for _ in range(attack.steps):
            gradient, right = self._gradient(changed)
            held = held & right
            step = direction(self.space.gradient(x, gradient), attack.norm) * attack.stride
            change = limited(self.space.change(x, changed) + step, attack)
            changed = self.space.add(x, change)
        return held & self.right(changed)

    def _gradient(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = changed.detach().requires_grad_()
            logits = self._logits(leaf)
            loss = F.cross_entropy(
                logits, self.inputs.targets, reduction="sum", ignore_index=IGNORE
            )
            try:
                (gradient,) = torch.autograd.grad(loss, leaf)
            except RuntimeError as error:
                raise TetherError(
                    "no gradient reaches the inputs, so there is nothing to attack along: pass "
                    f"attacks=(), or a model that does not cut it off ({error})"
                ) from None
        return torch.nan_to_num(gradient), self._hits(logits.detach())
