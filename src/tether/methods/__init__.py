"""The methods, one a file, in the room where it acts; importing this package registers them."""

from __future__ import annotations

from tether.methods.features.adarand import AdaRand
from tether.methods.features.bi_tuning import BiTuning
from tether.methods.features.bss import BatchSpectralShrinkage
from tether.methods.features.co_tuning import CoTuning
from tether.methods.features.conr import ConR
from tether.methods.features.delta import DELTA
from tether.methods.features.dr_tune import DRTune
from tether.methods.features.feature_alignment import FeatureAlignment
from tether.methods.features.feature_distillation import FeatureDistillation
from tether.methods.features.feature_norm import FeatureNormPenalty
from tether.methods.features.feature_proximity import FeatureProximity
from tether.methods.features.lwf import LearningWithoutForgetting
from tether.methods.features.masked_prediction import MaskedPrediction
from tether.methods.features.msbreg import MSBReg
from tether.methods.features.randreg import RandReg
from tether.methods.features.self_distillation import SelfDistillation
from tether.methods.features.sgm import SGMPenalty
from tether.methods.gradients.hessian_alignment import HessianAlignment
from tether.methods.gradients.orthogonal_gradient import OrthogonalGradient
from tether.methods.gradients.stablemax import StableMax
from tether.methods.inputs.aaer import AbnormalAdversarialRegularization
from tether.methods.inputs.adamixup import AdaMixup
from tether.methods.inputs.cutmix import CutMix
from tether.methods.inputs.decoupled_mixup import DecoupledMixup
from tether.methods.inputs.fgsm_rs import RandomStartFGSM
from tether.methods.inputs.mixup import Mixup
from tether.methods.inputs.policy_noise_mask import PolicyNoiseMask
from tether.methods.inputs.randaugment import RandAugment
from tether.methods.layers.multi_sample_dropout import MultiSampleDropout
from tether.methods.layers.nested_dropout import NestedDropout
from tether.methods.layers.stochnorm import StochNorm
from tether.methods.targets.class_weights import ClassWeights
from tether.methods.targets.co_teaching import CoTeaching
from tether.methods.targets.confidence_reweighting import ConfidenceReweighting
from tether.methods.targets.elr import EarlyLearningRegularization
from tether.methods.targets.elr_plus import ELRPlus
from tether.methods.targets.incremental_bce import IncrementalBCE
from tether.methods.targets.label_smoothing import LabelSmoothing
from tether.methods.targets.prediction_distillation import PredictionDistillation
from tether.methods.targets.ps_kd import ProgressiveSelfDistillation
from tether.methods.targets.random_teacher import RandomTeacher
from tether.methods.targets.regsl import RegSL
from tether.methods.targets.self_label_correction import SelfLabelCorrection
from tether.methods.weights.distance_constraint import DistanceConstraint
from tether.methods.weights.ema import EMA
from tether.methods.weights.ewc import EWC
from tether.methods.weights.group_envelope import GroupEnvelope
from tether.methods.weights.l2_sp import L2SP
from tether.methods.weights.layerwise_constraint import LayerwiseConstraint
from tether.methods.weights.mask_sparsity import MaskSparsity
from tether.methods.weights.proximal import ProximalStep
from tether.methods.weights.rate_constraint import RateConstraint
from tether.methods.weights.weight_compander import WeightCompander
from tether.methods.weights.weight_repulsion import WeightRepulsion

__all__ = [
    "DELTA",
    "EMA",
    "EWC",
    "L2SP",
    "AbnormalAdversarialRegularization",
    "AdaMixup",
    "AdaRand",
    "BatchSpectralShrinkage",
    "BiTuning",
    "ClassWeights",
    "CoTeaching",
    "CoTuning",
    "ConR",
    "ConfidenceReweighting",
    "CutMix",
    "DRTune",
    "DecoupledMixup",
    "DistanceConstraint",
    "ELRPlus",
    "EarlyLearningRegularization",
    "FeatureAlignment",
    "FeatureDistillation",
    "FeatureNormPenalty",
    "FeatureProximity",
    "GroupEnvelope",
    "HessianAlignment",
    "IncrementalBCE",
    "LabelSmoothing",
    "LayerwiseConstraint",
    "LearningWithoutForgetting",
    "MSBReg",
    "MaskSparsity",
    "MaskedPrediction",
    "Mixup",
    "MultiSampleDropout",
    "NestedDropout",
    "OrthogonalGradient",
    "PolicyNoiseMask",
    "PredictionDistillation",
    "ProgressiveSelfDistillation",
    "ProximalStep",
    "RandAugment",
    "RandReg",
    "RandomStartFGSM",
    "RandomTeacher",
    "RateConstraint",
    "RegSL",
    "SGMPenalty",
    "SelfDistillation",
    "SelfLabelCorrection",
    "StableMax",
    "StochNorm",
    "WeightCompander",
    "WeightRepulsion",
]
