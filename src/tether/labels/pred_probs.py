"""Out-of-fold probabilities of any classifier, read from a file: what cleanlab takes as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tether.errors import ConfigError
from tether.labels.signals import Signals
from tether.words import listed

SUFFIXES = (".npy", ".npz", ".csv")
#: How far the sum of a row may lie from one.
_CLOSE = 0.01
_LEAST = 1e-6


def read_pred_probs(
    path: Path, samples: int, classes: int, *, several: bool = False
) -> NDArray[np.float64]:
    """Probabilities ``[n, K]`` from a file.

    Args:
        path: ``.npy``; ``.npz`` with one array, or one called ``pred_probs``; or ``.csv`` with a
            column a class, with or without a line of names.
        samples: n, the training samples; a row each, in their order.
        classes: K, in the order of the data's classes.
        several: labels are independent of each other: rows need not sum to one.

    Raises:
        ConfigError: no such file, another shape, or rows that are no probabilities.
    """
    values = _read(path)
    if values.shape != (samples, classes):
        raise ConfigError(
            f"{path} holds an array of shape {values.shape}, and ({samples}, {classes}) belongs "
            f"here: a row for each of {samples} training samples, a column for each of {classes} "
            "classes"
        )
    bad = ~np.isfinite(values).all(1) | (values < -1e-6).any(1) | (values > 1 + 1e-6).any(1)
    if bad.any():
        raise ConfigError(
            f"{path}, row {int(bad.argmax())}: probabilities lie in [0, 1], this row holds "
            f"{listed(values[bad.argmax()].round(4).tolist())}; give probabilities, not logits"
        )
    sums = values.sum(1)
    off = np.abs(sums - 1.0) > _CLOSE
    if off.any() and not several:
        raise ConfigError(
            f"{path}, row {int(off.argmax())}: its probabilities sum to {sums[off.argmax()]:.4g}, "
            f"not to one ({int(off.sum())} of {samples} rows)"
        )
    return np.asarray(np.clip(values, 0.0, 1.0))


def _read(path: Path) -> NDArray[np.float64]:
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: probabilities are read from {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        if path.suffix.lower() == ".csv":
            found = _csv(path)
        else:
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.lib.npyio.NpzFile):
                with found:
                    found = _one(found, path)
        return np.atleast_2d(np.asarray(found, dtype=np.float64))
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"{path} cannot be read as numbers: {str(error).partition(chr(10))[0]}"
        ) from None


def _one(file: np.lib.npyio.NpzFile, path: Path) -> NDArray[np.float64]:
    names = list(file.files)
    if "pred_probs" not in names and len(names) != 1:
        raise ConfigError(
            f"{path} holds the arrays {listed(names)}; call the one that is meant pred_probs"
        )
    chosen: NDArray[np.float64] = file["pred_probs" if "pred_probs" in names else names[0]]
    return chosen


def _csv(path: Path) -> NDArray[np.float64]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines:
        raise ValueError("it is empty")
    try:
        [float(cell) for cell in lines[0].split(",")]
        skip = 0
    except ValueError:
        skip = 1  # a line of names
    return np.loadtxt(lines[skip:], delimiter=",", dtype=np.float64, ndmin=2)


def signals_of(shares: NDArray[np.float64], given: NDArray[np.int64]) -> Signals:
    """Signals that hold nothing but these probabilities.

    Args:
        shares: ``[n, K]``, of each sample without its own label.
        given: class indices ``[n]``, or 0/1 ``[n, K]``.
    """
    inside = np.clip(shares, _LEAST, 1.0 - _LEAST)
    logs = np.log(inside) - (np.log1p(-inside) if given.ndim == 2 else 0.0)
    return Signals(given, shares.shape[1], {"predicted": logs})
