"""Power laws c + a x^(-b) through losses over sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tether.compare.statistics import Floats


@dataclass(frozen=True)
class PowerLaw:
    """Curves c + a x^(-b).

    Args:
        a: factors, above zero.
        b: exponents; above zero the curve falls.
        c: offsets, the loss that no size removes.
    """

    a: Floats
    b: Floats
    c: Floats

    def at(self, size: ArrayLike) -> Floats:
        """The loss at a size; shape of the curves, or of the sizes for one curve."""
        x = np.asarray(size, dtype=np.float64)
        return np.asarray(self.c + self.a * x**-self.b, dtype=np.float64)


def fit_power_law(x: ArrayLike, y: ArrayLike, *, offset: bool = True) -> PowerLaw:
    """Fit c + a x^(-b) to losses, by least squares of the log of the loss.

    For a given c the fit is a straight line on logarithmic axes; c is searched between zero and
    the smallest loss. With three sizes three parameters fit anything, so there c is zero.

    Args:
        x: sizes, positive and different, at least two.
        y: positive losses; several rows are fitted one by one.
        offset: whether c may be above zero (from four sizes).

    Shape:
        x `(m,)`, y `(m,)` or `(n, m)`.

    Raises:
        ValueError: sizes or losses that are not positive, or too few.

    Example:
        >>> law = fit_power_law([1, 10, 100, 1000], [0.1 + 2 * x**-0.5 for x in (1, 10, 100, 1000)])
        >>> float(law.a.round(2)), float(law.b.round(3)), float(law.c.round(3))
        (2.0, 0.5, 0.1)
    """
    sizes = np.asarray(x, dtype=np.float64).ravel()
    losses = np.asarray(y, dtype=np.float64)
    rows = np.atleast_2d(losses)
    if sizes.size < 2 or rows.shape[1:] != sizes.shape or not (sizes > 0).all():
        raise ValueError(f"sizes must be positive, two or more, one per loss; got {x!r}")
    if not (rows > 0).all():
        raise ValueError("a power law needs losses above zero")
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    if offset and sizes.size >= 4:
        high = np.full(len(rows), 0.999)
    for _ in range(7 if high.any() else 1):  # shares of the smallest loss, finer and finer
        shares = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 13)
        a, b, c, error = _lines(sizes, rows, shares)
        best = error.argmin(axis=1)
        step = (high - low) / 12
        low = np.maximum(np.take_along_axis(shares, best[:, None], 1)[:, 0] - step, 0)
        high = np.minimum(low + 2 * step, 0.999)
    pick = (np.arange(len(rows)), best)
    shape = losses.shape[:-1]
    return PowerLaw(*(part[pick].reshape(shape) for part in (a, b, c)))


def _lines(x: Floats, y: Floats, shares: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Weighted lines through log(y - c) for every c `(rows, shares)`, and their errors."""
    c = shares * y.min(axis=1, keepdims=True)
    rest = y[:, None, :] - c[:, :, None]
    weight = (rest / y[:, None, :]) ** 2  # an error of log(y - c) is so much larger than of log y
    weight = weight / weight.sum(axis=-1, keepdims=True)
    across, up = np.log(x), np.log(rest)
    mean_x, mean_y = (weight * across).sum(-1), (weight * up).sum(-1)
    away = across - mean_x[..., None]
    slope = (weight * away * (up - mean_y[..., None])).sum(-1) / (weight * away**2).sum(-1)
    a = np.exp(mean_y - slope * mean_x)
    fitted = c[..., None] + a[..., None] * x ** slope[..., None]
    error = ((np.log(fitted) - np.log(y[:, None, :])) ** 2).sum(-1)
    return a, -slope, c, error
