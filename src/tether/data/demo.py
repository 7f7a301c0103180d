"""The built-in tasks ``demo:digits`` and ``demo:digits-few``: rows of 64 numbers, ten classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from tether.data.noising import noise_record
from tether.data.splits import split_validation
from tether.data.table import DataSource, Table
from tether.errors import ConfigError
from tether.optional import require
from tether.words import nearest

NAMES = ("digits", "digits-few")
_VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0  # which of the held-out digits validate does not depend on any option


def load_demo(name: str, seed: int) -> DataSource:
    """A built-in task, as :mod:`tether.demo.task` makes it.

    ``digits`` has 400 training samples, whose labels were drawn anew with probability 0.4;
    ``digits-few`` has ten of each class, all of them right. Of the digits that the task holds out
    for its test, a fixed stratified fifth is the validation split here and the rest the test.

    Args:
        name: what follows ``demo:``.
        seed: of the task: which digits, and which labels are wrong.

    Raises:
        ConfigError: an unknown name, or scikit-learn (which ships the digits) is missing.
    """
    if name not in NAMES:
        raise ConfigError(
            f"data 'demo:{name}' is unknown: use demo:{' or demo:'.join(NAMES)}"
            f"{nearest(name, NAMES)}"
        )
    require("sklearn.datasets", "labels")
    from tether.demo.task import few_shot_task, noisy_task

    task = noisy_task(seed) if name == "digits" else few_shot_task(seed)
    x, given = task.train.tensors
    train = _table(x, given, "train")
    x, true = task.test.tensors
    held_out = _table(x, true, "held-out")
    test, validation = split_validation(held_out, "single_label", _VALIDATION_SHARE, _SPLIT_SEED)
    source = DataSource(
        name=f"demo:{name}",
        kind="vector",
        task="single_label",
        class_names=[str(digit) for digit in range(10)],
        tables={"train": train, "validation": validation, "test": test},
    )
    if name == "digits":
        train = replace(train, true_labels=task.noisy.true.numpy().astype(np.int64))
        source.tables["train"] = train
        source.noise = {**noise_record(task.noisy, 0.4), "seed": seed}
    return source


def _table(inputs: Tensor, labels: Tensor, name: str) -> Table:
    rows = np.ascontiguousarray(inputs.numpy(), dtype=np.float32)
    ids = [f"{name}[{row}]" for row in range(len(rows))]
    return Table(list(rows), labels.numpy().astype(np.int64), ids)
