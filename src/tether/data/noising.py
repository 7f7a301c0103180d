"""Wrong labels put into the training data on purpose: ``--noise NAME:RATE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.data.table import Table
from tether.errors import ConfigError

_UNFIT = {
    "asymmetric": "the class each class is taken for; use asymmetric_cifar10, "
    "asymmetric_cifar100 or pair",
    "auxiliary": "the probabilities of another network",
}
_PIXELS = 32  # a side, of the images that instance noise looks at


def add_noise(
    table: Table, text: str, *, kind: str, task: str, num_classes: int, seed: int
) -> tuple[Table, dict[str, Any]]:
    """The table with some labels wrong and the right ones kept, and what was done.

    With several labels a sample, ``symmetric:r`` drops a share r of each label's ones and adds as
    many false ones, so that no label becomes more frequent.

    Args:
        table: training data.
        text: ``NAME:RATE``, as :func:`tether.noise.parse_noise` reads it.
        kind: of the inputs; instance noise looks at them.
        task: of the labels.
        num_classes: how many classes there are.
        seed: what is drawn follows from it.

    Raises:
        ConfigError: the noise is unknown, or does not fit the data.
    """
    from tether.noise import multilabel_noise, parse_noise

    try:
        function, rate = parse_noise(text)
    except ValueError as error:
        raise ConfigError(f"option noise: {error}") from None
    name = text.partition(":")[0].strip()
    labels = table.labels
    assert labels is not None
    if task == "regression":
        raise ConfigError("option noise: the labels are numbers, and noise changes classes")
    if name in _UNFIT:
        raise ConfigError(f"option noise: {name} needs {_UNFIT[name]}")
    if task == "multi_label":
        if name != "symmetric":
            raise ConfigError("option noise: with several labels a sample only symmetric:RATE")
        ones = labels.sum(0)
        added = np.minimum(rate * ones / np.maximum(len(table) - ones, 1), 1.0)
        noisy = multilabel_noise(labels, float(rate or 0), added.tolist(), seed=seed)
    else:
        options: dict[str, Any] = {"num_classes": num_classes}
        if name == "instance":
            options |= {"inputs": _numbers(table.inputs, kind), "scale": "standardise"}
        try:
            noisy = function(labels, rate=rate, seed=seed, **options)
        except ValueError as error:  # "cifar10" flips with other than ten classes
            raise ConfigError(f"option noise: {error}") from None
    given = noisy.labels.numpy().astype(labels.dtype)
    return replace(table, labels=given, true_labels=labels), noise_record(noisy, rate)


def noise_record(noisy: Any, rate: float | None) -> dict[str, Any]:
    """What a :class:`tether.noise.NoisyLabels` tells, in plain values."""
    return {
        "name": noisy.generator,
        "rate": rate,
        "realised_rate": noisy.rate,
        "transition": noisy.transition.tolist(),
        "seed": noisy.seed,
        "version": noisy.version,
    }


def known_noise(
    given: NDArray[Any], true: NDArray[Any], num_classes: int
) -> dict[str, Any]:  # fmt: skip
    """The record of mistakes that the data bring along, beside the labels known to be right."""
    counts = np.zeros((num_classes, num_classes))
    if given.ndim == 1:
        np.add.at(counts, (true, given), 1)
    rows = counts.sum(1, keepdims=True)
    transition = np.divide(counts, rows, out=np.eye(num_classes), where=rows > 0)
    return {
        "name": "of the data",
        "rate": None,
        "realised_rate": float((given != true).mean()),
        "transition": transition.tolist(),
        "seed": None,
        "version": 1,
    }


def _numbers(inputs: Sequence[Any], kind: str) -> NDArray[np.float32]:
    if kind == "vector":
        return np.stack([np.asarray(row, dtype=np.float32) for row in inputs])
    if kind != "image":
        raise ConfigError("option noise: instance noise needs images or rows of numbers, not texts")
    from tether.data.images import open_image, to_mode

    small = [to_mode(open_image(each), 3).resize((_PIXELS, _PIXELS)) for each in inputs]
    return np.stack([np.asarray(image, dtype=np.float32).ravel() / 255 for image in small])
