"""tether: regularised, robust fine-tuning of pretrained networks, in any training loop."""

from __future__ import annotations

from tether.batch import Batch
from tether.catalogue import MethodInfo, create_method, list_methods, method_info, register
from tether.engine.attach import attach, prepare
from tether.engine.handle import Handle
from tether.errors import NonFiniteError, TetherError
from tether.method import Method
from tether.methods import (
    L2SP,
    AdaRand,
    ConfidenceReweighting,
    DistanceConstraint,
    EarlyLearningRegularization,
    FeatureNormPenalty,
    LayerwiseConstraint,
    RandReg,
    RegSL,
    SelfLabelCorrection,
    SGMPenalty,
)
from tether.schedule import Schedule

__version__ = "0.1.0"

__all__ = [
    "L2SP",
    "AdaRand",
    "Batch",
    "ConfidenceReweighting",
    "DistanceConstraint",
    "EarlyLearningRegularization",
    "FeatureNormPenalty",
    "Handle",
    "LayerwiseConstraint",
    "Method",
    "MethodInfo",
    "NonFiniteError",
    "RandReg",
    "RegSL",
    "SGMPenalty",
    "Schedule",
    "SelfLabelCorrection",
    "TetherError",
    "attach",
    "create_method",
    "list_methods",
    "method_info",
    "prepare",
    "register",
]
