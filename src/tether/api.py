"""The public names of tether in one place; ``import tether`` fetches them from here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether import methods
from tether.batch import Batch
from tether.catalogue import MethodInfo, create_method, list_methods, method_info, register
from tether.engine.attach import attach, prepare
from tether.engine.handle import Handle
from tether.errors import ConfigError, NonFiniteError, TetherError
from tether.method import Method
from tether.methods import *  # noqa: F403  (every method, by the list in tether.methods)
from tether.schedule import Schedule
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result

__all__ = [
    "Batch",
    "ConfigError",
    "Handle",
    "Method",
    "MethodInfo",
    "NonFiniteError",
    "Result",
    "Schedule",
    "TetherError",
    "TuneConfig",
    "attach",
    "create_method",
    "list_methods",
    "method_info",
    "prepare",
    "register",
    "tune",
    *methods.__all__,
]


def tune(
    config: TuneConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Fine-tune a pretrained model on data of your own: the command ``tether tune``.

    Args:
        config: the options: a :class:`TuneConfig`, a mapping, or a YAML or TOML file.
        resume: go on with the run in the output folder.
        overwrite: remove what is in the output folder.

    Raises:
        ConfigError: an option, a file or a folder does not do.
        TetherError: training could not go on.
    """
    from tether.tuning.job import tune as run

    return run(config, resume=resume, overwrite=overwrite)
