"""How long to train a linear head, and with how much decay: closed forms of its learning dynamics.

Model: targets ``y = wbar . x + e`` with ``wbar_i ~ N(0, signal_var)``, ``e ~ N(0, noise_var)``,
P samples, N features. Gradient flow on the SUM of squared errors,
``dw/dt = sum_p (y_p - w . x_p) x_p``, starts at ``w_i ~ N(0, init_var)``. Everything depends on
the data through the eigenvalues of ``X^T X`` (N x N) alone. Times and ridge strengths are in the
units of that sum; for a mean over samples with learning rate eta, ``t = eta * steps / P`` and
``ridge = P * weight_decay``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import ConfigError

Floats = NDArray[np.float64]

_ZERO = 1e-10  # eigenvalues below this share of the largest count as zero
_GRID, _GOLDEN = 200, 60


def marchenko_pastur(alpha: float, nodes: int = 4000) -> tuple[Floats, Floats]:
    """Eigenvalues of ``X^T X`` for many random features, with their mass.

    Entries of X are independent with variance 1 / N, and P = alpha N samples. The density is
    ``sqrt((l+ - l)(l - l-)) / (2 pi lam)`` between ``lam-+ = (sqrt(alpha) -+ 1)^2``, and mass
    ``1 - alpha`` at 0 when alpha < 1. By midpoints in an angle, exact to 1e-6 and better.

    Args:
        alpha: samples per feature, above 0.
        nodes: nodes of the quadrature, from 1.

    Returns:
        Eigenvalues ``[nodes + 1]``, the first of them 0, and their mass, which sums to one.

    Raises:
        ConfigError: alpha not above 0, no nodes.

    References:
        Vladimir A. Marčenko, Leonid A. Pastur, "Distribution of eigenvalues for some sets of random
        matrices", 1967.

    Example:
        >>> values, mass = marchenko_pastur(0.5)
        >>> round(float(mass.sum()), 6), float(mass[0]), round(float((values * mass).sum()), 6)
        (1.0, 0.5, 0.5)
    """
    if not (math.isfinite(alpha) and alpha > 0) or nodes < 1:
        raise ConfigError(f"alpha must be above 0 and nodes at least 1, not {alpha} and {nodes}")
    angle = (np.arange(nodes) + 0.5) * math.pi / nodes
    radius = 2 * math.sqrt(alpha)
    values = 1 + alpha + radius * np.cos(angle)
    mass = (radius * np.sin(angle)) ** 2 / (2 * math.pi * values) * math.pi / nodes
    return np.concatenate([[0.0], values]), np.concatenate([[max(0.0, 1 - alpha)], mass])


@dataclass(frozen=True)
class LinearDynamics:
    """Test and training error of a linear model over time and over ridge strength.

    With ``u = exp(-lam t)`` for an eigenvalue lam and c the variance of a new sample along it:

    - ``test(t) = sum [(signal + init) u^2 + (noise / lam)(1 - u)^2] c + noise``;
    - ``train(t) = (1/P) (sum_{lam > 0} (lam (signal + init) + noise) u^2 + (P - rank) noise)``;
    - ``test(g) = sum (signal g^2 + noise lam) / (lam + g)^2 c + noise`` for ridge strength g,
      least at ``g = noise / signal`` whatever the eigenvalues. Early stopping comes close to it.

    Directions with lam = 0 keep their start for ever: begin small when there are fewer samples than
    features. Cross-entropy, momentum and Adam are not covered.

    Args:
        eigenvalues: of ``X^T X``; those of the N features that are not given are 0.
        num_features: N.
        num_samples: P.
        signal_var: variance of the true weights, above 0.
        noise_var: variance of the noise, from 0.
        init_var: variance of the weights at the start, from 0.
        test_var: c, variance of a new sample along each eigenvector; None: ``1 / N`` for all, as
            of random features. One number, or one for each eigenvalue.
        multiplicity: how many features an eigenvalue stands for; None: one each.

    Cost:
        O(eigenvalues) for each time.

    Raises:
        ConfigError: numbers out of range, or shapes that do not fit.

    References:
        Madhu S. Advani, Andrew M. Saxe, "High-dimensional dynamics of generalization error in
        neural networks", 2017, arXiv:1710.03667.

    Example:
        >>> model = LinearDynamics.random_features(2.0, signal_var=1.0, noise_var=0.25)
        >>> time, error = model.optimal_stopping()
        >>> round(time, 2), round(error, 4), model.optimal_ridge()[0]
        (2.0, 0.4322, 0.25)
    """

    eigenvalues: ArrayLike
    num_features: float
    num_samples: float
    signal_var: float
    noise_var: float
    init_var: float = 0.0
    test_var: ArrayLike | None = None
    multiplicity: ArrayLike | None = None
    _modes: tuple[Floats, Floats, Floats] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.eigenvalues, dtype=np.float64)
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise ConfigError("eigenvalues must be a list of finite numbers, at least one")
        if not (self.signal_var > 0 and self.noise_var >= 0 and self.init_var >= 0):
            raise ConfigError(
                "signal_var must be above 0, noise_var and init_var not below, but they are "
                f"{self.signal_var}, {self.noise_var}, {self.init_var}"
            )
        if not (self.num_features > 0 and self.num_samples > 0):
            raise ConfigError("there must be features and samples: their numbers are above 0")
        values = np.where(values > _ZERO * max(float(values.max()), 0.0), values, 0.0)
        many = np.broadcast_to(
            np.asarray(1.0 if self.multiplicity is None else self.multiplicity, np.float64),
            values.shape,
        )
        variance = np.broadcast_to(
            np.asarray(1 / self.num_features if self.test_var is None else self.test_var, float),
            values.shape,
        )
        rest = float(self.num_features) - float(many.sum())
        if rest < -1e-6 * self.num_features:
            raise ConfigError(f"there are more eigenvalues than {self.num_features} features")
        if rest > 1e-6 * self.num_features:
            spare = 1 / self.num_features if self.test_var is None else 0.0
            values, many = np.append(values, 0.0), np.append(many, rest)
            variance = np.append(variance, spare)
        object.__setattr__(self, "_modes", (values, many, variance))

    @classmethod
    def random_features(
        cls, alpha: float, *, signal_var: float, noise_var: float, init_var: float = 0.0
    ) -> LinearDynamics:
        """The limit of many independent features of variance 1 / N.

        Args:
            alpha: samples per feature, above 0.
            signal_var: variance of the true weights.
            noise_var: variance of the noise.
            init_var: variance of the weights at the start.
        """
        values, mass = marchenko_pastur(alpha)
        mass = mass / mass.sum()
        return cls(values, 1.0, alpha, signal_var, noise_var, init_var, multiplicity=mass)

    def test_error(self, time: ArrayLike) -> Floats:
        """Expected squared error on new samples, noise included.

        Args:
            time: one or several times, from 0; infinity is the least-squares solution.
        """
        lam, many, variance = self._modes
        left = self._left(time)
        inverse = np.divide(1.0, lam, out=np.zeros_like(lam), where=lam > 0)
        modes = (self.signal_var + self.init_var) * left**2
        modes = modes + self.noise_var * inverse * (1 - left) ** 2
        found: Floats = modes @ (many * variance) + self.noise_var
        return found

    def train_error(self, time: ArrayLike) -> Floats:
        """Expected mean squared error on the training samples.

        Args:
            time: one or several times, from 0.
        """
        lam, many, _ = self._modes
        used = many * (lam > 0)
        modes = (lam * (self.signal_var + self.init_var) + self.noise_var) * self._left(time) ** 2
        unused = max(0.0, self.num_samples - float(used.sum())) * self.noise_var
        found: Floats = (modes @ used + unused) / self.num_samples
        return found

    def _left(self, time: ArrayLike) -> Floats:
        """What is left of the start in each mode, ``exp(-lam t)``."""
        t = np.asarray(time, dtype=np.float64)[..., None]
        lam = self._modes[0]
        with np.errstate(invalid="ignore"):  # 0 times infinity: that mode never moves
            return np.where(lam > 0, np.exp(-lam * t), 1.0)

    def optimal_stopping(self) -> tuple[float, float]:
        """The time of least test error, and that error. Infinite time where there is no noise.

        For a single eigenvalue ``t = log(1 + lam (signal + init) / noise) / lam``; for several it
        lies between the smallest and the largest of these.
        """
        lam = self._modes[0][self._modes[0] > 0]
        if not len(lam):
            return 0.0, float(self.test_error(0.0))
        if self.noise_var == 0:
            return math.inf, float(self.test_error(math.inf))
        times = np.log1p(lam * (self.signal_var + self.init_var) / self.noise_var) / lam
        best = least_positive(self.test_error, float(times.min()), float(times.max()))
        return best, float(self.test_error(best))

    def ridge_error(self, ridge: ArrayLike) -> Floats:
        """Expected squared error on new samples of ridge regression, noise included.

        Args:
            ridge: one or several strengths g, from 0, of ``sum of squares + g |w|^2``.
        """
        lam, many, variance = self._modes
        g = np.asarray(ridge, dtype=np.float64)[..., None]
        below = (lam + g) ** 2
        above = self.signal_var * g**2 + self.noise_var * lam
        modes = np.divide(
            above, below, out=np.full(below.shape, float(self.signal_var)), where=below > 0
        )
        found: Floats = (
            np.where(lam > 0, modes, self.signal_var) @ (many * variance) + self.noise_var
        )
        return found

    def optimal_ridge(self) -> tuple[float, float]:
        """The best ridge strength, ``noise_var / signal_var``, and its test error."""
        best = self.noise_var / self.signal_var
        return best, float(self.ridge_error(best))


def least_positive(error: Callable[[Floats], Floats], low: float, high: float) -> float:
    """Where a function of a positive number is least: a grid of its logarithm, then golden section.

    Args:
        error: of an array of such numbers.
        low: lower end.
        high: upper end.
    """
    logs = np.linspace(math.log(low), math.log(high), _GRID)
    best = int(np.argmin(error(np.exp(logs))))
    a, b = float(logs[max(0, best - 1)]), float(logs[min(_GRID - 1, best + 1)])
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(_GOLDEN):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        values = error(np.exp(np.array([c, d])))
        a, b = (a, d) if values[0] <= values[1] else (c, b)
    return math.exp((a + b) / 2)
