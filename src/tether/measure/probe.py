"""Linear probes on frozen features: what theory says of stopping and decay, beside a sweep.

Targets and features are centred. Class labels become one-hot numbers, and the loss is squared: of
training with cross-entropy this tells an order of magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.errors import ConfigError
from tether.measure.dynamics import LinearDynamics
from tether.measure.evidence import Spectrum, as_data, as_numbers, evidence, spectrum_of
from tether.measure.results import Record

Floats = NDArray[np.float64]

_POINTS = 80  # times and ridge strengths of a sweep


def dynamics_of(spectrum: Spectrum, new_features: Any = None) -> LinearDynamics:
    """The learning dynamics of a probe, its signal and noise estimated from the training targets.

    Args:
        spectrum: of the training data.
        new_features: unlabelled features the probe will be used on, n x d; they tell the variance
            along each direction. None: that of the training features, which is optimistic where
            there are not many more samples than dimensions.

    Raises:
        ConfigError: new features of another width, targets that are all equal.
    """
    signal, noise = evidence(spectrum)
    values, width = spectrum.eigenvalues, len(spectrum.center)
    along, across = values / spectrum.samples, 0.0
    if new_features is not None:
        x = as_numbers(new_features, "new features").astype(np.float64)
        if x.ndim != 2 or x.shape[1] != width or not len(x) or not np.isfinite(x).all():
            raise ConfigError(f"new features must be finite numbers, samples x {width}")
        x = x - spectrum.center
        along = ((x @ spectrum.directions) ** 2).mean(0)
        idle = width - len(values)
        across = max(0.0, float((x**2).sum(1).mean() - along.sum())) / idle if idle else 0.0
    return LinearDynamics(
        np.append(values, 0.0), width, spectrum.samples, signal, noise,
        test_var=np.append(along, across),
        multiplicity=np.append(np.ones(len(values)), width - len(values)),
    )  # fmt: skip


@dataclass(frozen=True)
class ProbePlan(Record):
    """What :func:`plan_linear_probe` returns.

    Attributes:
        steps: full-batch gradient steps from zero weights, without decay; infinite without noise.
        weight_decay: the best L2 strength instead, for training to convergence.
        largest_lr: above it gradient descent diverges.
        time: the stopping time in the units of the theory.
        ridge: the same strength for a sum of squares (``alpha`` of ridge regression).
        signal_var: estimated variance of the true weights.
        noise_var: estimated variance of the noise.
    """

    steps: float
    weight_decay: float
    largest_lr: float
    time: float
    ridge: float
    signal_var: float
    noise_var: float


def plan_linear_probe(
    features: Any, targets: Any, lr: float, *, momentum: float = 0.0, new_features: Any = None
) -> ProbePlan:
    """How many steps to train a linear head on frozen features, or with how much weight decay.

    For the loss ``(1 / 2P) sum_p |y_p - W x_p|^2 + (weight_decay / 2) |W|^2`` and gradient descent
    on all samples. The decay is the more reliable of the two; for Adam it alone holds.

    ``steps = time P / (lr / (1 - momentum))``, ``weight_decay = (noise / signal) / P``

    Args:
        features: frozen features of the training samples.
        targets: numbers, or class indices (made one-hot).
        lr: learning rate, above 0.
        momentum: of SGD, from 0, below 1.
        new_features: unlabelled features the head will be used on.

    Shape:
        P x d; P or P x C.

    Cost:
        O(P d min(P, d)).

    Raises:
        ConfigError: shapes that do not fit, values not finite, features or targets all equal,
            ``lr`` or ``momentum`` out of range.

    References:
        Madhu S. Advani, Andrew M. Saxe, "High-dimensional dynamics of generalization error in
        neural networks", 2017, arXiv:1710.03667.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(100, 20))
        >>> y = x @ rng.normal(size=20) + 3 * rng.normal(size=100)
        >>> plan = plan_linear_probe(x, y, lr=0.1)
        >>> 10 < plan.steps < 100, 0.03 < plan.weight_decay < 0.3
        (True, True)
    """
    if not (lr > 0 and 0 <= momentum < 1):
        raise ConfigError(f"lr must be above 0 and momentum in [0, 1), not {lr} and {momentum}")
    spectrum = spectrum_of(features, targets)
    model = dynamics_of(spectrum, new_features)
    (time, _), (ridge, _) = model.optimal_stopping(), model.optimal_ridge()
    samples = spectrum.samples
    largest = 2 * (1 + momentum) * samples / float(spectrum.eigenvalues[0])
    steps = time * samples * (1 - momentum) / lr
    return ProbePlan(
        steps, ridge / samples, largest, time, ridge, model.signal_var, model.noise_var
    )


@dataclass(frozen=True, eq=False)
class ProbeSweep(Record):
    """What :func:`probe_dynamics` returns. Errors are mean squares over samples and outputs.

    Attributes:
        times: stopping times of the sweep ``[T]``.
        predicted: test error predicted at each ``[T]``.
        measured: test error measured at each ``[T]``.
        train: training error measured at each ``[T]``.
        ridges: ridge strengths of the sweep ``[G]``.
        ridge_predicted: test error predicted at each ``[G]``.
        ridge_measured: test error measured at each ``[G]``.
        predicted_time: best stopping time by theory.
        measured_time: best of the sweep.
        predicted_ridge: best strength by theory.
        measured_ridge: best of the sweep.
        error_at_predicted_time: measured where theory says to stop.
        error_at_measured_time: the least of the sweep.
        error_at_predicted_ridge: measured with the strength theory gives.
        error_at_measured_ridge: the least of the sweep.
        error_untrained: measured at time 0.
        error_converged: measured for least squares.
        accuracy_at_predicted_time: of class labels, NaN for numbers.
        accuracy_at_predicted_ridge: of class labels, NaN for numbers.
        accuracy_converged: of class labels, NaN for numbers.
        signal_var: estimated variance of the true weights.
        noise_var: estimated variance of the noise.
        samples: training samples P.
        test_samples: how many test samples.
    """

    times: Floats
    predicted: Floats
    measured: Floats
    train: Floats
    ridges: Floats
    ridge_predicted: Floats
    ridge_measured: Floats
    predicted_time: float
    measured_time: float
    predicted_ridge: float
    measured_ridge: float
    error_at_predicted_time: float
    error_at_measured_time: float
    error_at_predicted_ridge: float
    error_at_measured_ridge: float
    error_untrained: float
    error_converged: float
    accuracy_at_predicted_time: float
    accuracy_at_predicted_ridge: float
    accuracy_converged: float
    signal_var: float
    noise_var: float
    samples: int
    test_samples: int


def probe_dynamics(
    features: Any,
    targets: Any,
    test_features: Any = None,
    test_targets: Any = None,
    *,
    test_share: float = 0.3,
    seed: int = 0,
) -> ProbeSweep:
    """Predicted best stopping time and L2 strength of a linear probe, beside those measured.

    Theory sees the training samples with their targets and the test samples without. The sweep is
    exact, not a training run: in the basis of the features' own directions gradient flow and ridge
    regression are closed forms, ``a_i(t) = (1 - exp(-lam_i t)) / lam_i`` and
    ``a_i(g) = 1 / (lam_i + g)`` times ``v_i . X^T y``.

    Args:
        features: frozen features.
        targets: numbers, or class indices (made one-hot).
        test_features: of other samples; None: a part of the above is held out.
        test_targets: theirs.
        test_share: the part held out, in (0, 1).
        seed: of the split.

    Shape:
        P x d; P or P x C.

    Cost:
        One singular value decomposition, O(P d min(P, d)), and 160 products of n x d x C.

    Raises:
        ConfigError: shapes that do not fit, values not finite, features or targets all equal, no
            samples left to train or test on.

    References:
        Madhu S. Advani, Andrew M. Saxe, "High-dimensional dynamics of generalization error in
        neural networks", 2017, arXiv:1710.03667.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 40))
        >>> y = x @ rng.normal(size=40) + 4 * rng.normal(size=200)
        >>> found = probe_dynamics(x, y)
        >>> 0.9 < found.error_at_measured_ridge / found.error_at_predicted_ridge <= 1
        True
    """
    x, y = as_data(features, targets)
    if (test_features is None) != (test_targets is None):
        raise ConfigError("give test features together with their targets, or neither")
    classes = as_numbers(targets, "targets").ndim == 1 and y.shape[1] > 1
    if test_features is None:
        order = np.random.default_rng(seed).permutation(len(x))
        held = round(test_share * len(x))
        if not 0 < held < len(x) - 1:
            raise ConfigError(
                f"{len(x)} samples cannot be split at test_share={test_share}: give more, or test "
                "samples of their own"
            )
        test, rest = order[:held], order[held:]
        x, y, new, truth = x[rest], y[rest], x[test], y[test]
    else:
        new, truth = _test_data(test_features, test_targets, x.shape[1], y.shape[1])
    spectrum = spectrum_of(x, y)
    return _Sweep(spectrum, new, truth, x, y, classes).result()


def _test_data(features: Any, targets: Any, width: int, outputs: int) -> tuple[Floats, Floats]:
    raw = as_numbers(targets, "test targets")
    if raw.ndim == 1 and raw.dtype.kind in "iub" and outputs > 1:
        if raw.min(initial=0) < 0 or raw.max(initial=0) >= outputs:
            raise ConfigError(f"test targets must be classes below {outputs}, as in training")
        raw = np.eye(outputs)[raw.astype(np.int64)]
    x = as_numbers(features, "test features").astype(np.float64)
    y = raw.astype(np.float64).reshape(len(raw), -1)
    if x.ndim != 2 or x.shape[1] != width or y.shape != (len(x), outputs) or not len(x):
        raise ConfigError(
            f"test data of shapes {x.shape} and {raw.shape} do not fit {width} features and "
            f"{outputs} outputs"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("test features and targets must be finite: leave other rows out")
    return x, y


class _Sweep:
    """Errors of the probe for any filter of its modes."""

    def __init__(
        self, spectrum: Spectrum, new: Floats, truth: Floats, x: Floats, y: Floats, classes: bool
    ) -> None:
        self.spectrum, self.classes = spectrum, classes
        self.model = dynamics_of(spectrum, new)
        self.truth, self.given = truth, y - spectrum.offset
        self.along = (new - spectrum.center) @ spectrum.directions
        self.train_along = (x - spectrum.center) @ spectrum.directions
        self.base = np.sqrt(spectrum.eigenvalues)[:, None] * spectrum.projected

    def _predict(self, modes: Floats) -> Floats:
        found: Floats = self.along @ (modes[:, None] * self.base) + self.spectrum.offset
        return found

    def _errors(self, modes: Floats) -> Floats:
        """Test error for each row of filters."""
        return np.array([float(((self._predict(m) - self.truth) ** 2).mean()) for m in modes])

    def _accuracy(self, modes: Floats) -> float:
        if not self.classes:
            return math.nan
        return float((self._predict(modes).argmax(1) == self.truth.argmax(1)).mean())

    def _flow(self, times: Floats) -> Floats:
        values = self.spectrum.eigenvalues
        found: Floats = -np.expm1(-times[:, None] * values) / values
        return found

    def _ridge(self, ridges: Floats) -> Floats:
        return 1 / (self.spectrum.eigenvalues + ridges[:, None])

    def _train_error(self, modes: Floats) -> float:
        fitted = self.train_along @ (modes[:, None] * self.base)
        return float(((fitted - self.given) ** 2).mean())

    def result(self) -> ProbeSweep:
        values, model = self.spectrum.eigenvalues, self.model
        time, ridge = model.optimal_stopping()[0], model.optimal_ridge()[0]
        slow = max(10 / float(values[-1]), 10 * time)
        times = np.geomspace(min(0.01 / float(values[0]), time / 10), slow, _POINTS)
        low = min(1e-3 * float(values[-1]), ridge / 10)
        ridges = np.geomspace(low, max(1e2 * float(values[0]), 10 * ridge), _POINTS)
        flow, decay = self._flow(times), self._ridge(ridges)
        measured, ridge_measured = self._errors(flow), self._errors(decay)
        at = np.concatenate([self._flow(np.array([time, 0.0])), self._ridge(np.array([ridge, 0]))])
        stopped, untrained, decayed, converged = self._errors(at)
        return ProbeSweep(
            times, model.test_error(times), measured,
            np.array([self._train_error(m) for m in flow]),
            ridges, model.ridge_error(ridges), ridge_measured,
            time, float(times[measured.argmin()]), ridge, float(ridges[ridge_measured.argmin()]),
            float(stopped), float(measured.min()), float(decayed), float(ridge_measured.min()),
            float(untrained), float(converged),
            self._accuracy(at[0]), self._accuracy(at[2]), self._accuracy(at[3]),
            model.signal_var, model.noise_var, self.spectrum.samples, len(self.truth),
        )  # fmt: skip
