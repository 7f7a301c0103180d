"""Whether test samples occur in what is trained or tuned on: contents of rows across splits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.compare.plan import Case
from tether.compare.study import Study
from tether.errors import ConfigError
from tether.tuning.config import load_config
from tether.words import listed

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
PLACES = ("model", "data", "weights", "unlabelled", "pairs")


def located(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the variables of the environment in their paths filled in.

    Raises:
        ConfigError: a variable is not set.
    """
    found = dict(config)
    for key in PLACES:
        value = found.get(key)
        if isinstance(value, str) and "$" in value:
            for name in set(_VARIABLE.findall(value)):
                value = value.replace(f"${name}", _variable(key, name))
            found[key] = value
    return found


def _variable(option: str, written: str) -> str:
    name = written.strip("{}")
    if name not in os.environ:
        raise ConfigError(f"option {option}: set the variable {name} of the environment")
    return os.environ[name]


@dataclass(frozen=True)
class Checked:
    """What was found about a case's data.

    Attributes:
        fingerprints: split -> hash of its contents.
        task: what the labels are.
        kind: of the inputs.
        leaks: test samples that occur in other splits.
    """

    fingerprints: Mapping[str, str]
    task: str
    kind: str
    leaks: int


def check_data(study: Study, case: Case) -> Checked:
    """Look for samples that are in several splits, and fingerprint the splits.

    Contents are compared, not names: the bytes of images, texts without case and white space,
    the numbers of rows. The test samples are the same for every seed, and so are all others taken
    together, so that one reading stands for all; the built-in tasks part their rows by the seed,
    each row going to one split.

    Raises:
        ConfigError: there is no test split, or test samples occur in other splits and the study
            does not allow it.
    """
    from tether.data.checks import duplicates, examine_inputs
    from tether.data.load import fingerprint, read_tables

    source, keys = read_tables(load_config(located({**case.settings, "seed": study.tuning_seed})))
    tables = source.tables
    test = tables.get("test")
    if test is None or test.labels is None:
        raise ConfigError(
            f"data {case.data.name}: there is no test split with labels, and a comparison needs "
            "one: name a file or folder of it 'test'"
        )
    if not keys:  # the built-in tasks: rows of numbers
        for table in tables.values():
            hashes, _ = examine_inputs(source.kind, table.inputs)
            keys = {**keys, **dict(zip(table.ids, hashes, strict=True))}
    found = duplicates(source.kind, tables, keys)
    leaks = [n for n in found if n.kind == "duplicate_across" and n.split == "test"]
    if leaks and study.leaks == "refuse":
        first = leaks[0]
        where = next(s for s in ("train", "validation") if f"in {s} " in first.what)
        raise ConfigError(
            f"data {case.data.name}: {first.count} of {len(test)} test samples occur in the "
            f"{where} split as well ({listed(first.examples, 3)}): scores would be too good. "
            "Remove them there, or compare all the same with --leaks allow"
        )
    prints = {name: fingerprint(table, keys) for name, table in tables.items()}
    return Checked(prints, source.task, source.kind, sum(n.count for n in leaks))
