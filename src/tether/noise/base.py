"""What all label-noise generators share: the result, input checks, and platform-free draws.

Every random choice is derived from float64 uniforms of a CPU generator of its own (a Mersenne
twister, 53 bits a number), so that a seed gives the same labels on every platform and neither
reads nor moves the global random state. Choices that torch draws with kernels of its own
(normals, permutations) are rebuilt from those uniforms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LabelLike = Tensor | npt.NDArray[Any] | Sequence[int]
ArrayLike = Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]

_CHUNK = 1 << 22  # numbers held at once when every sample has a distribution of its own
_TINY = 2.0**-54  # below the smallest positive uniform: keeps the inverse normal finite


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Labels after corruption, with everything needed to report and to repeat the experiment.

    Attributes:
        labels: given labels, what training may see.
        true: labels before the corruption (a copy).
        mask: ``labels != true``.
        transition: realised ``T[i, j] = P(given = j | true = i)``, float64, rows sum to one. The
            row of a class without samples is that of the identity. For multi-label data one
            2 x 2 matrix a label.
        rate: realised share of wrong labels, ``mask.mean()``. It may differ from the rate asked
            for: report this one.
        generator: name of the protocol.
        seed: seed of the draws; None if the caller passed a generator, or if nothing is random.
        version: raised whenever the same seed would give other labels.
    """

    labels: Tensor
    true: Tensor
    mask: Tensor
    transition: Tensor
    rate: float
    generator: str
    seed: int | None
    version: int = 1

    def __len__(self) -> int:
        return int(self.labels.shape[0])


def as_cpu_tensor(values: Any, name: str) -> Tensor:
    """A CPU tensor of array-like values, sharing memory where it can; it must not be written."""
    try:
        with warnings.catch_warnings():
            # torch warns about read-only arrays (memory maps); nothing here writes to them
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            if not isinstance(values, Tensor):
                # by way of NumPy, because torch would read Python floats as float32
                values = np.asarray(values)
                values = values.copy() if any(s < 0 for s in values.strides) else values
            return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as an array of numbers: {error}") from error


def as_labels(labels: LabelLike, *, name: str = "labels", num_classes: int | None = None) -> Tensor:
    """Copies class labels to an int64 CPU tensor; refuses anything but class indices."""
    values = as_cpu_tensor(labels, name)
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {tuple(values.shape)}")
    if values.numel() == 0:
        raise ValueError(f"{name} is empty")
    if values.is_floating_point() or values.is_complex():
        raise ValueError(f"{name} must be integers, not {values.dtype}: pass class indices")
    values = values.to(dtype=torch.int64, copy=True)
    low, high = (int(x) for x in torch.aminmax(values))
    if low < 0:
        raise ValueError(f"{name} holds {low}: class indices start at 0")
    if num_classes is not None and high >= num_classes:
        raise ValueError(f"{name} holds {high}, but num_classes is {num_classes}")
    return values


def as_labels_and_classes(labels: LabelLike, num_classes: int | None) -> tuple[Tensor, int]:
    """Checked labels, and the number of classes (the largest label plus one by default)."""
    true = as_labels(labels, num_classes=num_classes)
    return true, int(true.max()) + 1 if num_classes is None else num_classes


def as_rows(values: ArrayLike, *, name: str, shape: tuple[int, int]) -> Tensor:
    """Checks distributions in rows: the shape, no negative entry, rows that sum to one."""
    rows = as_cpu_tensor(values, name).to(torch.float64)
    if tuple(rows.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, not {tuple(rows.shape)}")
    if not bool(torch.isfinite(rows).all()) or bool((rows < 0).any()):
        raise ValueError(f"{name} must hold probabilities, but some are negative or not finite")
    sums = rows.sum(1)
    off = (sums - 1.0).abs()
    if bool((off > 1e-3).any()):
        row = int(off.argmax())
        raise ValueError(f"rows of {name} must sum to one; row {row} sums to {float(sums[row]):g}")
    return rows / sums[:, None]


def check_rate(rate: float, name: str = "rate") -> float:
    """A share in [0, 1] as a float."""
    value = float(rate)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], not {value:g}")
    return value


def make_generator(
    generator: torch.Generator | None, seed: int
) -> tuple[torch.Generator, int | None]:
    """The caller's generator, or a new one from the seed; and the seed to put on record."""
    if generator is None:
        return torch.Generator().manual_seed(int(seed)), int(seed)
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator lives on {generator.device}: labels are drawn on the CPU, "
            "so that they are the same everywhere; pass torch.Generator()"
        )
    return generator, None


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Float64 uniforms in [0, 1), the only source of randomness of this package."""
    return torch.rand(shape, dtype=torch.float64, generator=generator)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normals by the inverse distribution function, so that only uniforms are drawn."""
    draws = uniform(*shape, generator=generator).clamp_min_(_TINY)
    normals: Tensor = torch.special.ndtri(draws)
    return normals


def floor_share(rate: float, total: float) -> int:
    """``floor(rate * total)``, forgiving the rounding of products such as 0.29 * 100."""
    return math.floor(rate * total + 1e-9)


def whole_counts(quotas: Tensor, total: int | None = None) -> Tensor:
    """Rounds quotas (in the last dimension) to counts with the given total by largest remainder.

    Every count is the floor or the ceiling of its quota; ties go to the lower index. Without a
    total it is the floor of the sum for one row, the rounded sum for several.
    """
    floors = torch.floor(quotas + 1e-9)
    if total is None:
        wanted = torch.floor(quotas.sum(-1) + 1e-9) if quotas.ndim == 1 else quotas.sum(-1).round()
    else:
        wanted = torch.tensor(float(total), dtype=quotas.dtype)
    # an exactly met quota must not gain from rounding noise in the remainders
    remainders = (quotas - floors).clamp_min(0).mul(1e9).round()
    order = torch.argsort(remainders, dim=-1, descending=True, stable=True)
    ranks = torch.argsort(order, dim=-1)
    extra = ranks < (wanted - floors.sum(-1)).unsqueeze(-1)
    return (floors + extra).to(torch.int64)


def random_order(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Row numbers sorted by group, shuffled within each group."""
    shuffled = torch.argsort(uniform(len(groups), generator=generator), stable=True)
    return shuffled[torch.argsort(groups[shuffled], stable=True)]


def choose(groups: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Mask with exactly ``counts[g]`` random members of each group g chosen."""
    order = random_order(groups, generator)
    sizes = torch.bincount(groups, minlength=len(counts))
    starts = sizes.cumsum(0) - sizes
    ranks = torch.arange(len(groups)) - starts[groups[order]]
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    chosen[order] = ranks < counts[groups[order]]
    return chosen


def pick(
    true: Tensor, rate: float, *, exact: bool, stratified: bool, generator: torch.Generator
) -> Tensor:
    """Mask of the samples to corrupt: an exact number, exact per class, or Bernoulli draws."""
    if not exact:
        if stratified:
            raise ValueError("stratified=True counts samples: it needs exact=True")
        return uniform(len(true), generator=generator) < rate
    groups = true if stratified else torch.zeros_like(true)
    sizes = torch.bincount(groups).to(torch.float64)
    total = floor_share(rate, float(len(true)))
    return choose(groups, whole_counts(sizes * rate, total), generator)


def categorical(rows: Tensor, index: Tensor, uniforms: Tensor) -> Tensor:
    """Draws one column for each uniform from the distribution ``rows[index]``.

    Columns of probability zero are never drawn: column j is taken when the cumulative sum up to
    j - 1 is at most u and that up to j exceeds it.
    """
    cumulative = rows.cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    step = max(1, _CHUNK // rows.shape[1])
    parts = [
        torch.searchsorted(cumulative[i], u[:, None], right=True)[:, 0]
        for i, u in zip(torch.split(index, step), torch.split(uniforms, step), strict=True)
    ]
    return torch.cat(parts)


def transition_matrix(true: LabelLike, labels: LabelLike, num_classes: int | None = None) -> Tensor:
    """Counts the realised transition matrix ``T[i, j] = P(given = j | true = i)``.

    Args:
        true: true labels.
        labels: given labels, as many.
        num_classes: number of classes K; by default the largest label of either plus one.

    Shape:
        n and n to K x K, float64, rows sum to one. A class without samples has the identity's row.

    Raises:
        ValueError: the lengths differ, or a label is out of range.

    Example:
        >>> transition_matrix([0, 0, 1], [0, 1, 1]).tolist()
        [[0.5, 0.5], [0.0, 1.0]]
    """
    y = as_labels(true, name="true", num_classes=num_classes)
    s = as_labels(labels, num_classes=num_classes)
    check_lengths(labels=s, true=y)
    k = num_classes or int(torch.maximum(y, s).max()) + 1
    counts = torch.bincount(y * k + s, minlength=k * k).view(k, k).to(torch.float64)
    sizes = counts.sum(1, keepdim=True)
    return torch.where(sizes > 0, counts / sizes.clamp_min(1), torch.eye(k, dtype=torch.float64))


def check_lengths(**tensors: Tensor) -> None:
    """Raises unless all tensors have the same length."""
    lengths = {name: len(t) for name, t in tensors.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"lengths differ: {listed}")


def noisy_labels(
    true: Tensor, labels: Tensor, num_classes: int, generator: str, seed: int | None
) -> NoisyLabels:
    """Packs given and true class labels with their realised mask, matrix and rate."""
    mask = labels != true
    transition = transition_matrix(true, labels, num_classes)
    rate = int(mask.sum()) / len(mask)
    return NoisyLabels(labels, true, mask, transition, rate, generator, seed)


def require_classes(num_classes: int, protocol: str) -> None:
    """Raises for fewer than two classes, where no label can be wrong."""
    if num_classes < 2:
        raise ValueError(
            f"{protocol} needs at least 2 classes, not {num_classes}: pass num_classes"
        )
