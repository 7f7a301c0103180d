"""The public names of tether in one place; ``import tether`` fetches them from here."""

from __future__ import annotations

from tether import methods
from tether.batch import Batch
from tether.catalogue import MethodInfo, create_method, list_methods, method_info, register
from tether.engine.attach import attach, prepare
from tether.engine.handle import Handle
from tether.errors import ConfigError, NonFiniteError, TetherError
from tether.method import Method
from tether.methods import *  # noqa: F403  (every method, by the list in tether.methods)
from tether.schedule import Schedule
from tether.tuning.job import tune
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
