"""Measurements of models, features and labels: evaluation only, nothing here trains."""

from tether.measure.abnormal import abnormal_adversarial_fraction
from tether.measure.anchored import AnchoredFeatures, anchored_ufm_solution
from tether.measure.boundary import adversarial_strength, boundary_tilt, deviation_angle
from tether.measure.calibration import (
    brier_score,
    calibration_report,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from tether.measure.collapse import (
    ClassMoments,
    nearest_mean,
    neural_collapse,
    self_duality,
    simplex_deviation,
)
from tether.measure.distances import layer_distances
from tether.measure.dynamics import LinearDynamics, marchenko_pastur
from tether.measure.evaluation import Collected, collect
from tether.measure.evidence import estimate_signal_noise
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
from tether.measure.hessian import (
    HessianDistance,
    HessianTrace,
    hessian_distance,
    hessian_trace,
)
from tether.measure.imbalance import ShotMetrics, ShotRegion, shot_metrics
from tether.measure.labels import (
    auroc,
    average_precision,
    correction_report,
    detection_report,
    label_churn,
    transition_error,
    weight_report,
)
from tether.measure.learning import forgetting_events, prediction_changes, turning_point
from tether.measure.memorization import (
    loss_histograms,
    memorization_curve,
    memorization_fractions,
)
from tether.measure.neurons import (
    effective_output_weight,
    fourier_ipr_per_neuron,
    generalization_phase,
    inverse_participation_ratio,
    memorization_score,
    pruning_curve,
)
from tether.measure.noise_stability import (
    NoiseCurve,
    NoiseStability,
    StabilityDifference,
    noise_stability,
    noise_stability_difference,
)
from tether.measure.pac_bayes import PacBayes, pac_bayes_bound
from tether.measure.perturbations import Attack, gaussian_blur
from tether.measure.probe import plan_linear_probe, probe_dynamics
from tether.measure.rate import CodingRate, exp_golomb_bits, exp_golomb_lengths
from tether.measure.robustness import robust_accuracy, wilson_interval
from tether.measure.saturation import (
    GradientAlignment,
    SoftmaxSaturation,
    softmax_collapse_fraction,
    softmax_saturation,
    weight_gradient_alignment,
)

__all__ = [
    "AnchoredFeatures",
    "Attack",
    "ClassMoments",
    "CodingRate",
    "Collected",
    "GradientAlignment",
    "HessianDistance",
    "HessianTrace",
    "LinearDynamics",
    "NoiseCurve",
    "NoiseStability",
    "PacBayes",
    "ShotMetrics",
    "ShotRegion",
    "SoftmaxSaturation",
    "StabilityDifference",
    "abnormal_adversarial_fraction",
    "adversarial_strength",
    "anchored_ufm_solution",
    "auroc",
    "average_precision",
    "boundary_tilt",
    "brier_score",
    "calibration_report",
    "class_separation",
    "classwise_calibration_error",
    "collect",
    "correction_report",
    "detection_report",
    "deviation_angle",
    "effective_output_weight",
    "effective_rank",
    "estimate_signal_noise",
    "exp_golomb_bits",
    "exp_golomb_lengths",
    "expected_calibration_error",
    "feature_entropy",
    "feature_norms",
    "feature_report",
    "forgetting_events",
    "fourier_ipr_per_neuron",
    "gaussian_blur",
    "generalization_phase",
    "head_gradient_norm",
    "hessian_distance",
    "hessian_trace",
    "inverse_participation_ratio",
    "label_churn",
    "layer_distances",
    "linear_cka",
    "loss_histograms",
    "marchenko_pastur",
    "maximum_calibration_error",
    "memorization_curve",
    "memorization_fractions",
    "memorization_score",
    "mutual_information",
    "nearest_mean",
    "negative_log_likelihood",
    "neural_collapse",
    "noise_stability",
    "noise_stability_difference",
    "pac_bayes_bound",
    "plan_linear_probe",
    "prediction_changes",
    "probe_dynamics",
    "pruning_curve",
    "reliability_curve",
    "robust_accuracy",
    "self_duality",
    "shot_metrics",
    "simplex_deviation",
    "softmax_collapse_fraction",
    "softmax_saturation",
    "transition_error",
    "turning_point",
    "weight_gradient_alignment",
    "weight_report",
    "wilson_interval",
]
