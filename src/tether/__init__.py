"""tether: regularised, robust fine-tuning of pretrained networks, in any training loop."""

from __future__ import annotations

from tether import methods
from tether.batch import Batch
from tether.catalogue import MethodInfo, create_method, list_methods, method_info, register
from tether.engine.attach import attach, prepare
from tether.engine.handle import Handle
from tether.errors import NonFiniteError, TetherError
from tether.method import Method
from tether.methods import *  # noqa: F403  (every method, by the list in tether.methods)
from tether.schedule import Schedule

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Handle",
    "Method",
    "MethodInfo",
    "NonFiniteError",
    "Schedule",
    "TetherError",
    "attach",
    "create_method",
    "list_methods",
    "method_info",
    "prepare",
    "register",
    *methods.__all__,
]
