"""Signal and noise of a linear task, from the spectrum of its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.errors import ConfigError
from tether.measure.dynamics import least_positive

Floats = NDArray[np.float64]

_ZERO = 1e-10  # eigenvalues below this share of the largest count as zero


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Centred training data of a linear model in the basis of their own directions.

    Attributes:
        eigenvalues: of ``X^T X``, falling; those above rounding ``[r]``.
        directions: eigenvectors ``[d, r]``.
        projected: targets along them, ``X v / |X v| . y``, ``[r, C]``.
        rest: squared length of the targets outside the span.
        center: mean features ``[d]``.
        offset: mean targets ``[C]``.
        samples: P.
    """

    eigenvalues: Floats
    directions: Floats
    projected: Floats
    rest: float
    center: Floats
    offset: Floats
    samples: int


def spectrum_of(features: Any, targets: Any) -> Spectrum:
    """One singular value decomposition of centred features, all that the dynamics need.

    Args:
        features: P x d, at least two rows.
        targets: numbers ``[P]`` or ``[P, C]``, or class indices (made one-hot).

    Cost:
        O(P d min(P, d)).

    Raises:
        ConfigError: shapes that do not fit, values not finite, features that are all equal.
    """
    x, y = as_data(features, targets)
    center, offset = x.mean(0), y.mean(0)
    left, singular, right = np.linalg.svd(x - center, full_matrices=False)
    kept = singular**2 > _ZERO * max(float(singular[0]) ** 2, 1e-300)
    if not (kept.any() and float(singular[0]) > 1e-10 * float(np.abs(x).max())):
        raise ConfigError("the features of all samples are equal: nothing can be learned from them")
    y = y - offset
    projected = left[:, kept].T @ y
    rest = max(0.0, float((y**2).sum() - (projected**2).sum()))
    return Spectrum(singular[kept] ** 2, right[kept].T, projected, rest, center, offset, len(x))


def as_data(features: Any, targets: Any) -> tuple[Floats, Floats]:
    """Features and targets as finite float64 matrices; class indices become one-hot rows.

    Args:
        features: samples x dimensions.
        targets: one row, number or class a sample.
    """
    x, raw = as_numbers(features, "features"), as_numbers(targets, "targets")
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise ConfigError(
            f"features must be samples x dimensions, two samples or more, not of shape {x.shape}"
        )
    if raw.ndim not in (1, 2) or len(raw) != len(x):
        raise ConfigError(f"{len(x)} samples need as many targets, not shape {raw.shape}")
    if raw.ndim == 1 and raw.dtype.kind in "iub":
        index = raw.astype(np.int64)
        if index.min() < 0:
            raise ConfigError(f"targets hold {index.min()}: class indices start at 0")
        raw = np.eye(int(index.max()) + 1)[index]
    y = raw.astype(np.float64)
    x = x.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("features and targets must be finite: leave other rows out")
    return x, y[:, None] if y.ndim == 1 else y


def as_numbers(values: Any, name: str) -> NDArray[Any]:
    """Array-like or tensor as an array of numbers, or ConfigError.

    Args:
        values: to be read.
        name: what they are called in a message.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        found = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be read as numbers: {error}") from None
    if found.dtype.kind not in "biuf":
        raise ConfigError(f"{name} must be numbers, not {found.dtype}")
    return found


def estimate_signal_noise(features: Any, targets: Any) -> tuple[float, float]:
    """Variances of true weights and of noise that make the targets most likely (evidence).

    ``y ~ N(0, signal X X^T + noise I)`` after centring, summed over outputs; a search over their
    ratio, the signal in closed form for each.

    Args:
        features: samples x dimensions.
        targets: numbers, one or several a sample, or class indices (made one-hot).

    Shape:
        P x d; P or P x C.

    Returns:
        ``(signal_var, noise_var)``, noise at least 1e-9 of what the features can explain.

    Cost:
        O(P d min(P, d)).

    Raises:
        ConfigError: shapes that do not fit, values not finite, features or targets all equal.

    References:
        David J. C. MacKay, "Bayesian Interpolation", 1992.
        Madhu S. Advani, Andrew M. Saxe, "High-dimensional dynamics of generalization error in
        neural networks", 2017, arXiv:1710.03667.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(400, 50))
        >>> y = x @ rng.normal(size=50) + 2 * rng.normal(size=400)
        >>> signal, noise = estimate_signal_noise(x, y)
        >>> 0.5 < signal < 2, 3 < noise < 5
        (True, True)
    """
    return evidence(spectrum_of(features, targets))


def evidence(spectrum: Spectrum) -> tuple[float, float]:
    """:func:`estimate_signal_noise` of data already decomposed.

    Args:
        spectrum: from :func:`spectrum_of`.

    Raises:
        ConfigError: targets that are all equal.
    """
    lam, energy = spectrum.eigenvalues, (spectrum.projected**2).sum(1)
    if not float(energy.sum()) + spectrum.rest > 0:
        raise ConfigError("the targets of all samples are equal: there is nothing to learn")
    outputs = spectrum.projected.shape[1]
    idle = max(spectrum.samples - 1 - len(lam), 0)  # directions without features, one is the mean's

    def signal(g: Floats) -> Floats:
        explained = (energy / (lam + g[:, None])).sum(1) + (spectrum.rest / g if idle else 0.0)
        found: Floats = explained / (outputs * (len(lam) + idle))
        return found

    def cost(g: Floats) -> Floats:
        spread = np.log(lam + g[:, None]).sum(1) + idle * np.log(g)
        found: Floats = spread + (len(lam) + idle) * np.log(np.maximum(signal(g), 1e-300))
        return found

    best = least_positive(cost, 1e-9 * float(lam[0]), 1e6 * float(lam[0]))
    found = float(signal(np.array([best]))[0])
    return found, found * best
