"""Features before and after, seen along the two main directions of the pretrained ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.report.blocks import Key, Panel, Plot
from tether.report.extras import require
from tether.report.palette import INK, Color, assign_colors
from tether.report.plots.common import Floats, label_colors
from tether.report.svg import HALO, printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 250.0
_NAMED = 12  # up to so many classes, a class is named where its points are


@dataclass(frozen=True)
class PCAAxes:
    """The two main directions of a cloud of features.

    Args:
        mean: centre of the cloud, `(d,)`.
        directions: two orthonormal rows, `(2, d)`; a row of zeros where there is no variance.
        explained: share of the variance along each, `(2,)`.
    """

    mean: Floats
    directions: Floats
    explained: Floats

    def project(self, features: ArrayLike) -> Floats:
        """Coordinates `(n, 2)` of features `(n, d)`."""
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.mean.size:
            raise ValueError(
                f"features must have shape (n, {self.mean.size}) but have {values.shape}"
            )
        return np.asarray((values - self.mean) @ self.directions.T, dtype=np.float64)


def pca_axes(features: ArrayLike) -> PCAAxes:
    """The two principal directions of features, with a sign that does not depend on chance.

    Fit them once on the pretrained features and use them for every method and epoch: then two
    pictures differ because the features do.

    Args:
        features: one row per sample.

    Shape:
        `(n, d)` with n at least 2.

    Raises:
        ValueError: not two-dimensional, fewer than two rows, or values that are not finite.

    Example:
        >>> axes = pca_axes([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> axes.directions.tolist(), axes.project([[4.0, 1.0]]).tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0]])
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"features must be finite and have shape (n, d) with n at least 2; got {values.shape}"
        )
    mean = values.mean(axis=0)
    _, singular, rows = np.linalg.svd(values - mean, full_matrices=False)
    variance = singular**2
    directions = np.zeros((2, values.shape[1]))
    explained = np.zeros(2)
    for place in range(min(2, variance.size)):
        if variance[place] > 1e-12 * max(variance[0], np.finfo(np.float64).tiny):
            row = rows[place]
            directions[place] = row * np.sign(row[np.argmax(np.abs(row))])
            explained[place] = variance[place] / variance.sum()
    return PCAAxes(mean, directions, explained)


def feature_scatter(
    features: Mapping[str, Mapping[str, ArrayLike]],
    classes: ArrayLike,
    axes: PCAAxes,
    *,
    class_names: Sequence[str] | None = None,
    wrong: ArrayLike | None = None,
    colors: Mapping[str, Color] | None = None,
    max_points: int = 400,
) -> Plot:
    """Features of the same samples at some moments of training, coloured by class.

    All panels share axes and range, so that distances can be compared between them.

    Args:
        features: for every method, moment (`"start"`, `"end"`) to features `(n, d)`.
        classes: class of every sample, `(n,)`, integers from 0.
        axes: directions to look along, from `pca_axes` of the pretrained features.
        class_names: names of the classes; by default their numbers.
        wrong: samples to draw as crosses, `(n,)` booleans, such as those with a wrong label.
        colors: colours of the methods, for the marks before their names.
        max_points: draw at most so many samples, evenly spaced over the rows.

    Raises:
        ValueError: nothing to plot, or arrays whose lengths differ.
    """
    used = label_colors(features, colors)
    labels = np.asarray(classes).astype(np.int64).ravel()
    names = [str(name) for name in class_names or range(int(labels.max(initial=-1)) + 1)]
    if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"classes must be between 0 and {len(names) - 1}, one name for each")
    crossed = np.zeros(labels.size, bool) if wrong is None else np.asarray(wrong, bool).ravel()
    rows = np.unique(np.linspace(0, labels.size - 1, min(max_points, labels.size)).astype(int))
    clouds = {}
    for label, moments in features.items():
        for moment, values in moments.items():
            cloud = axes.project(values)
            if len(cloud) != labels.size or crossed.size != labels.size:
                raise ValueError(
                    f"features of {label!r} at {moment!r}, classes and wrong must have one row "
                    f"per sample; they have {len(cloud)}, {labels.size} and {crossed.size}"
                )
            clouds[label, moment] = cloud[rows]
    if not clouds or not rows.size:
        raise ValueError("there are no features to plot; give at least one moment of one method")
    hues = assign_colors(names)
    span = _span(list(clouds.values()))
    panels = tuple(
        Panel(
            _draw(cloud, labels[rows], crossed[rows], names, hues, span),
            _describe(label, moment, cloud, labels[rows], names),
            _WIDTH,
            moment,
            used[label],
            label,
        )
        for (label, moment), cloud in clouds.items()
    )
    keys = [Key(name, hues[name], "dot") for name in names]
    if crossed[rows].any():
        keys.append(Key("label is wrong", INK, "cross"))
    return Plot(panels, tuple(keys))


def _span(clouds: Sequence[Floats]) -> tuple[Floats, float]:
    """Centre and half width of one square window around all points."""
    points = np.concatenate(clouds)
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, float(0.54 * (high - low).max()) or 1.0


def _draw(
    cloud: Floats,
    labels: NDArray[np.int64],
    crossed: NDArray[np.bool_],
    names: Sequence[str],
    hues: Mapping[str, Color],
    span: tuple[Floats, float],
) -> str:
    centre, half = span

    def paint(axes: "Axes") -> None:
        axes.grid(visible=False)
        for side in ("top", "right", "bottom", "left"):
            axes.spines[side].set_visible(True)
        axes.set_xlim(centre[0] - half, centre[0] + half)
        axes.set_ylim(centre[1] - half, centre[1] + half)
        axes.set_xticks([])
        axes.set_yticks([])
        for place, name in enumerate(names):
            mine = labels == place
            _points(axes, cloud[mine & ~crossed], hues[name].light)
            _crosses(axes, cloud[mine & crossed], hues[name].light, 0.016 * half)
        if len(names) > _NAMED:
            return
        for place, name in enumerate(names):
            mine = labels == place
            if mine.any():
                across, up = np.median(cloud[mine], axis=0).tolist()
                axes.text(
                    across, up, printable(name), weight=700, ha="center", va="center", gid=HALO
                )

    return render(_WIDTH, _WIDTH, paint, font_size=13)


def _points(axes: "Axes", cloud: Floats, color: str) -> None:
    """All dots of a class as one path of lines without length, a tenth of the usual bytes."""
    _strokes(axes, cloud, cloud, color, width=4.5)


def _crosses(axes: "Axes", cloud: Floats, color: str, arm: float) -> None:
    for direction in (np.array([arm, arm]), np.array([arm, -arm])):
        _strokes(axes, cloud - direction, cloud + direction, color, width=1.4)


def _strokes(axes: "Axes", starts: Floats, ends: Floats, color: str, *, width: float) -> None:
    if not len(starts):
        return
    path = require("matplotlib.path").Path
    corners = np.stack([starts, ends], axis=1).reshape(-1, 2)
    codes = np.tile([path.MOVETO, path.LINETO], len(starts))
    strokes = path(corners, codes)
    strokes.should_simplify = False  # simplifying drops lines without length
    patch = require("matplotlib.patches").PathPatch(
        strokes, fill=False, edgecolor=color, linewidth=width, alpha=0.8
    )
    patch.set_capstyle("round")
    axes.add_patch(patch)


def _describe(
    label: str, moment: str, cloud: Floats, labels: NDArray[np.int64], names: Sequence[str]
) -> str:
    spread = float(np.sqrt(((cloud - cloud.mean(axis=0)) ** 2).sum(axis=1).mean()))
    within = np.concatenate(
        [cloud[labels == k] - cloud[labels == k].mean(axis=0) for k in np.unique(labels)]
    )
    inside = float(np.sqrt((within**2).sum(axis=1).mean()))
    return (
        f"Features of {label} at {moment}: {len(cloud)} samples of {len(names)} classes; "
        f"spread {spread:.3g} in all, {inside:.3g} within a class."
    )
