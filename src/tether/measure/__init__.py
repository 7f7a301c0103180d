"""Measurements of models, features and labels: evaluation only, nothing here trains."""

from tether.measure.distances import layer_distances
from tether.measure.evaluation import collect
from tether.measure.features import (
    class_separation,
    effective_rank,
    feature_entropy,
    feature_norms,
    feature_report,
    head_gradient_norm,
    linear_cka,
    mutual_information,
)
from tether.measure.hessian import hessian_distance, hessian_trace
from tether.measure.labels import (
    auroc,
    average_precision,
    correction_report,
    detection_report,
    label_churn,
    transition_error,
    weight_report,
)
from tether.measure.memorization import (
    loss_histograms,
    memorization_curve,
    memorization_fractions,
)
from tether.measure.noise_stability import noise_stability, noise_stability_difference
from tether.measure.pac_bayes import pac_bayes_bound

__all__ = [
    "auroc",
    "average_precision",
    "class_separation",
    "collect",
    "correction_report",
    "detection_report",
    "effective_rank",
    "feature_entropy",
    "feature_norms",
    "feature_report",
    "head_gradient_norm",
    "hessian_distance",
    "hessian_trace",
    "label_churn",
    "layer_distances",
    "linear_cka",
    "loss_histograms",
    "memorization_curve",
    "memorization_fractions",
    "mutual_information",
    "noise_stability",
    "noise_stability_difference",
    "pac_bayes_bound",
    "transition_error",
    "weight_report",
]
